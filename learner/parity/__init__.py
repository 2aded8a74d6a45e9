"""Our networks and updates beside the reference code's."""
