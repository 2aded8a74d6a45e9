"""Curves, statistics and videos, and the data files they ship."""
