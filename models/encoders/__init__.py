"""From frames to feature maps."""
