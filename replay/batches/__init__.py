"""Batches: drawn items and their observations."""
