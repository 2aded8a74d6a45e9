"""What defines a run: its configuration, its folder, its identity."""
