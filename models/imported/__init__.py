"""A user's own encoder or head."""
