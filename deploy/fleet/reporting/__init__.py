"""What a run reports: metrics, status, episodes, its log."""
