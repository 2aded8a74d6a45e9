"""Map feature maps to tokens, through experts, to features."""
