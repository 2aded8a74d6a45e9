"""Reports of a run: metrics, status, episodes, its log."""
