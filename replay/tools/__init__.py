"""Whole replays for people: list, verify, export, import."""
