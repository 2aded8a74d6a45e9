"""Suites of games: the Arcade Learning Environment, MinAtar."""
