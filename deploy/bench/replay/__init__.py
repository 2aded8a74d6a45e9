"""`apexpert bench replay`."""
