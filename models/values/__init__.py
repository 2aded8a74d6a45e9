"""Map features to values of actions: output layers, plain or noisy."""
