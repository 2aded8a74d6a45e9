"""`apexpert replay`: inspects and moves a run's replay from outside the run."""
