"""Metrics files, TensorBoard events and the console."""
