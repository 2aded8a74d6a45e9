"""What a step is besides its frames: action, reward and ends, one entry a leaf."""

import numpy as np

from replay.types import Segment


class StepColumns:
    """Arrays over all leaves; an entry counts as long as its leaf is taken."""

    def __init__(self, num_leaves: int) -> None:
        self.actions = np.zeros(num_leaves, np.int32)
        self.rewards = np.zeros(num_leaves, np.float32)
        self.terminated = np.zeros(num_leaves, np.bool_)
        self.truncated = np.zeros(num_leaves, np.bool_)
        self.life_lost = np.zeros(num_leaves, np.bool_)

    def put(self, first: int, count: int, segment: Segment) -> None:
        """Take in a segment's first `count` steps, from leaf `first` on."""
        for name, column in vars(self).items():
            column[first : first + count] = getattr(segment, name)[:count]
