"""Map frames to feature maps."""
