"""What the one owner of a replay does: index, evict, limit, restore."""
