"""Memory for batches that is reused once nothing refers to the batch any more."""

import sys

import numpy as np
from numpy.typing import NDArray

MOST_BUFFERS = 4
"""Most batches served from the pool at a time: one in use, one drawn ahead, and some to spare."""
_probe = [np.empty(0, np.uint8)]
_ALONE = sys.getrefcount(_probe[0])
"""Reference count of an array that only a list refers to."""


class BufferPool:
    """Arrays of bytes for one thread.

    Fresh memory costs a page fault every 4 KiB, twice the time of filling it, and the C library
    gives large blocks back to the system whenever it likes. CPython's reference count tells exactly
    when an array and all its views are gone; only then is the array handed out again.
    """

    def __init__(self) -> None:
        self._buffers: list[NDArray[np.uint8]] = []

    def take(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return an array of this shape with undefined contents, which shares no memory with any in use."""
        for place in range(len(self._buffers)):
            if sys.getrefcount(self._buffers[place]) == _ALONE:
                if self._buffers[place].shape != shape:
                    self._buffers[place] = np.empty(shape, np.uint8)
                return self._buffers[place]
        buffer = np.empty(shape, np.uint8)
        if len(self._buffers) < MOST_BUFFERS:
            self._buffers.append(buffer)
        return buffer
