"""Segments: how transitions are stored, byte by byte."""
