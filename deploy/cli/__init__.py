"""The `apexpert` command line."""
