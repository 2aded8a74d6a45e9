"""Metrics sink and console."""
