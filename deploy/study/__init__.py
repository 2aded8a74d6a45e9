"""Studies: a question over games, seeds and arms, as one file; its runs, their table and its report."""
