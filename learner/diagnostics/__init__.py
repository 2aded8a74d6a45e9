"""Diagnostics of a network during training."""
