"""Runs beside published seeds."""
