"""Actors as many as the learner has use for, where there is room for them, and away from nodes that end."""
