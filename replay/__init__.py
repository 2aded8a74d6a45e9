"""Sharded, Redis-backed prioritized replay: segments, shards, writers and the single sampler."""
