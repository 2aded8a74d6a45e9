"""The log of each shard, read once, in order."""
