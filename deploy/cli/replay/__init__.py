"""`apexpert replay`: a run's replay, from outside."""
