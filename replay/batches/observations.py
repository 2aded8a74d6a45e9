"""Build the observations of drawn items from the frame store, and from Redis for what it does not hold."""

import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.batches.block_reader import BlockReader, SegmentsGone
from replay.items.frame_store import FrameStore
from replay.items.table import ItemTable
from replay.log.cursor import LogCursor
from replay.segments.returns import stack_rows
from replay.types import Signature

__all__ = ["BufferPool", "FrameReader", "Observations", "Places", "SegmentsGone"]

MOST_BUFFERS = 4
"""Most batches served from the pool at a time: one in use, one drawn ahead, and some to spare."""
_probe = [np.empty(0, np.uint8)]
_ALONE = sys.getrefcount(_probe[0])
"""Reference count of an array that only a list refers to."""


class Places(NamedTuple):
    """Where the observations of B items lie."""

    slots: NDArray[np.int64]
    """(B,) slots of their segments in the item table."""
    newest: NDArray[np.int64]
    """(B,) positions of the observations' newest frames within their segments."""
    steps: NDArray[np.int64]
    """(B,) window lengths: the next observation's newest frame comes this many frames later."""

    def take(self, which: NDArray[np.bool_]) -> "Places":
        """Select the places of some items."""
        return Places(*(field[which] for field in self))


class Observations(NamedTuple):
    """Planes of B transitions, each (B, K, H, W)."""

    observation: NDArray[np.uint8]
    next_observation: NDArray[np.uint8]


class FrameReader:
    """Builds observations from the store and from Redis; both ways give the same bytes."""

    def __init__(
        self, table: ItemTable, store: FrameStore, cursors: Sequence[LogCursor], signature: Signature
    ) -> None:
        self._table = table
        self._store = store
        self._signature = signature
        self._blocks = BlockReader(table, cursors, signature.stack)
        self._buffers = BufferPool()
        self.misses = 0
        """Items whose frames were read from Redis because the store did not hold them."""

    def read(self, places: Places) -> Observations:
        """Build the observations of B items; raises SegmentsGone if some must come from Redis and cannot."""
        unique, inverse = np.unique(places.slots, return_inverse=True)
        rows = self._store.rows(self._table.slots["generation"][unique].tolist())
        missed = np.array([found is None for found in rows])[inverse]
        num_missed = int(np.count_nonzero(missed))
        frames_of_one = (self._signature.stack, *self._signature.frame_shape)
        whole = self._buffers.take((2, len(missed), *frames_of_one))
        # The same memory, with the planes of a stack's frames after each other.
        planes = whole.reshape(2, len(missed), *self._signature.observation_shape)
        if not num_missed:
            self._from_store(whole, rows, inverse, places)
            return Observations(planes[0], planes[1])
        if num_missed < len(missed):
            # A mask selects a copy, not a view, so these frames go through a buffer.
            held = np.empty((2, len(missed) - num_missed, *frames_of_one), np.uint8)
            self._from_store(held, rows, inverse[~missed], places.take(~missed))
            whole[:, ~missed] = held
        self._from_redis(whole, np.flatnonzero(missed), places.take(missed))
        # Counted last: items whose segments are gone are drawn again.
        self.misses += num_missed
        return Observations(planes[0], planes[1])

    def close(self) -> None:
        """End the threads that read from Redis."""
        self._blocks.close()

    def _from_store(
        self,
        whole: NDArray[np.uint8],
        rows: list[NDArray[np.int64] | None],
        inverse: NDArray[np.int64],
        places: Places,
    ) -> None:
        """Gather the frames (2, B, S, *shape) of items in the store; their rows are `rows[inverse]`."""
        none = np.empty(0, np.int64)
        held = [none if found is None else found for found in rows]
        first = np.cumsum([0, *map(len, held)])[inverse]
        newest = np.concatenate([places.newest, places.newest + places.steps])
        # Both observations of an item lie in the same segment, so `first` serves them both.
        stacks = stack_rows(np.concatenate(held), np.tile(first, 2), newest, self._signature.stack)
        self._store.gather(stacks, whole.reshape(-1, *whole.shape[2:]))

    def _from_redis(self, whole: NDArray[np.uint8], items: NDArray[np.int64], places: Places) -> None:
        """Read both observations of some items into their places in `whole` (2, B, S, *shape)."""
        self._blocks.fill(
            whole.reshape(-1, *whole.shape[2:]),
            np.concatenate([items, items + whole.shape[1]]),
            np.tile(places.slots, 2),
            np.concatenate([places.newest, places.newest + places.steps]),
        )


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
