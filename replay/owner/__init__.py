"""What the single owner of a replay does: index, evict, limit, restore."""
