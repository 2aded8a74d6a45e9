"""Reading the log of each shard, every entry once and in order."""
