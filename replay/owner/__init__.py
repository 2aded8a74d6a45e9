"""Work of a replay's single owner: index, evict, limit, restore."""
