"""Commands about a trained network."""
