"""Trained networks: of a run, of an exported file, or bundled with the package."""
