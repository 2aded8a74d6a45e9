"""Observations made of single frames: the newest K frames of each environment."""

import numpy as np
from numpy.typing import NDArray


class FrameStacks:
    """Rolling frame stacks of E environments; frames before an episode's first are zeros."""

    def __init__(self, num_envs: int, stack: int, frame_shape: tuple[int, int]) -> None:
        self._stacks = np.zeros((num_envs, stack, *frame_shape), np.uint8)

    @property
    def observations(self) -> NDArray[np.uint8]:
        """(E, K, H, W), oldest frame first; overwritten by the next `reset` or `push`."""
        return self._stacks

    def reset(self, frames: NDArray[np.uint8]) -> None:
        """Begin an episode in all environments with (E, H, W) first frames."""
        self._stacks[:] = 0
        self._stacks[:, -1] = frames

    def push(self, frames: NDArray[np.uint8], goes_on: NDArray[np.bool_]) -> None:
        """Add the (E, H, W) newest frames; where `goes_on` (E,) is False they begin a new episode."""
        # NumPy assigns overlapping slices as if the source were copied first.
        self._stacks[:, :-1] = self._stacks[:, 1:]
        # Cleared before the newest frame goes in: that frame is the new episode's first.
        self._stacks[~goes_on] = 0
        self._stacks[:, -1] = frames
