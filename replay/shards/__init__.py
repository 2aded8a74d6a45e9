"""Shards: one Redis server each, and the connections to them."""
