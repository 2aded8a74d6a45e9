"""Learning curves of runs: one panel a game, beside published seeds, against frames or hours."""
