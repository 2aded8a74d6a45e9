"""Trained networks: from a run, from an exported file, or bundled with the package."""
