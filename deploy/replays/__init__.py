"""A run's replay: where it is, and whose."""
