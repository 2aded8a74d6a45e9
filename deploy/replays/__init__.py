"""Where a run's replay is, and which folder owns it."""
