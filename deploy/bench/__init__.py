"""Benchmarks of the production classes."""
