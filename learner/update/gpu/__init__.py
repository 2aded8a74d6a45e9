"""Updates on a GPU: captured and replayed, and weights on their way from it."""
