"""One update: losses, gradient, optimizer, priorities."""
