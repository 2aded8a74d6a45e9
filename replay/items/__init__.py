"""Items in memory: their table, priorities and frames."""
