"""Definition of a run: its configuration, its folder, its identity."""
