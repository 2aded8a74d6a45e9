"""Diagnostics of a network while it learns."""
