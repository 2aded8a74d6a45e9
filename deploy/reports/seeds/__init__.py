"""Comparison of runs with published seeds."""
