"""Memory of batches that is handed out again once nobody holds the batch any more."""

import sys

import numpy as np
from numpy.typing import NDArray

MOST_BUFFERS = 4
"""Batches held at a time that are served from the pool: one in use, one drawn ahead, and some to spare."""
_probe = [np.empty(0, np.uint8)]
_ALONE = sys.getrefcount(_probe[0])
"""References to an array that a list holds and nobody else."""


class BufferPool:
    """Arrays of bytes for one thread.

    Fresh memory costs a page fault every 4 KiB, twice the time of filling it, and the C library gives large
    blocks back to the system whenever it likes. CPython's reference count tells exactly when an array and all
    its views are gone: only then does it serve again.
    """

    def __init__(self) -> None:
        self._buffers: list[NDArray[np.uint8]] = []

    def take(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """An array of this shape, its contents undefined, that shares no memory with any other in use."""
        for place in range(len(self._buffers)):
            if sys.getrefcount(self._buffers[place]) == _ALONE:
                if self._buffers[place].shape != shape:
                    self._buffers[place] = np.empty(shape, np.uint8)
                return self._buffers[place]
        buffer = np.empty(shape, np.uint8)
        if len(self._buffers) < MOST_BUFFERS:
            self._buffers.append(buffer)
        return buffer
