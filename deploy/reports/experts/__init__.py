"""What experts look at."""
