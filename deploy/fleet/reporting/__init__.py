"""What a run tells: metrics, status, episodes, its log."""
