"""Compares our networks and updates with the reference code's."""
