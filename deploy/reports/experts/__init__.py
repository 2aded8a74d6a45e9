"""Maps of what experts look at."""
