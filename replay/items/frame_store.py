"""The frame store: decoded frames of segments, from which observations are gathered."""

import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from replay.config import ReplayConfig
from replay.types import FrameShape

ZERO_ROW = 0
"""The row of the all-zero frame, which stands for the frames before the first of an episode."""


class FrameStore(Protocol):
    """Where the sampler keeps decoded frames: in host memory or a GPU's.

    A key names the frames of one segment, all of one shape, (H, W) or (C, H, W). A store may forget any
    key at any time; the sampler then reads these frames from Redis.
    """

    @property
    def bytes(self) -> int:
        """Bytes of the frames held."""
        ...

    def put(self, key: Hashable, frames: NDArray[np.uint8]) -> None:
        """Store frames (F, *shape) under a new key, if they fit; other keys may be forgotten to make room."""
        ...

    def rows(self, keys: Sequence[Hashable]) -> list[NDArray[np.int64] | None]:
        """Return the rows (F,) of each key's frames, or None if it is not held; valid until `put` or `drop`.

        Counts as a use of the keys.
        """
        ...

    def drop(self, key: Hashable) -> None:
        """Forget a key, if it is held."""
        ...

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return the frames of rows (B, S) as (B, S, *shape), in `out` if given; row 0 is the zero frame."""
        ...


class HostFrameStore:
    """Frames in host memory, at most `max_bytes` of them; the least recently used segments leave first.

    Memory is reserved at once but only touched as frames arrive. The frames of a segment need not
    be adjacent, so there is no fragmentation. A `max_bytes` smaller than a segment is allowed; the
    store then holds nothing.
    """

    def __init__(self, frame_shape: FrameShape, max_bytes: int) -> None:
        self._frame_bytes = math.prod(frame_shape)
        self._num_rows = max_bytes // self._frame_bytes
        try:
            self._buffer = np.empty((self._num_rows + 1, *frame_shape), np.uint8)
        except MemoryError:
            raise MemoryError(
                f"replay.frame_store_bytes asks for {max_bytes / 2**30:.1f} GiB: more than can be reserved"
            ) from None
        self._buffer[ZERO_ROW] = 0
        self._fresh = 1  # rows from here on were never used, so their memory is not touched yet
        self._free: list[NDArray[np.int64]] = []
        self._num_free = self._num_rows
        self._rows: OrderedDict[Hashable, NDArray[np.int64]] = OrderedDict()

    @property
    def bytes(self) -> int:
        """Bytes of the frames held."""
        return (self._num_rows - self._num_free) * self._frame_bytes

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, key: Hashable, frames: NDArray[np.uint8]) -> None:
        """Store frames (F, *shape) under a key, dropping the least recently used segments to make room.

        More frames than the store has rows are not stored.
        """
        self.drop(key)
        if len(frames) > self._num_rows:
            return
        while self._num_free < len(frames):
            self.drop(next(iter(self._rows)))
        rows = self._allocate(len(frames))
        self._buffer[rows] = frames
        self._rows[key] = rows

    def rows(self, keys: Sequence[Hashable]) -> list[NDArray[np.int64] | None]:
        """Return the rows (F,) of each key's frames, or None if it is not held; valid until `put` or `drop`.

        These keys become the most recently used.
        """
        get, use = self._rows.get, self._rows.move_to_end
        found = [get(key) for key in keys]
        for key, rows in zip(keys, found, strict=True):
            if rows is not None:
                use(key)
        return found

    def drop(self, key: Hashable) -> None:
        """Forget a key, if it is held."""
        rows = self._rows.pop(key, None)
        if rows is not None:
            self._free.append(rows)
            self._num_free += len(rows)

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return the frames of rows (B, S) as (B, S, *shape), in `out` if given; row 0 is the zero frame.

        Raises IndexError outside the store.
        """
        if rows.size and (int(rows.min()) < 0 or int(rows.max()) >= len(self._buffer)):
            raise IndexError(f"rows must be in [0, {len(self._buffer)})")
        if out is None:
            out = np.empty((*rows.shape, *self._buffer.shape[1:]), np.uint8)
        # `take` into given memory copies row by row at memory speed and without the GIL, but only
        # with a mode that needs no bounds check: hence "clip", after the check above.
        np.take(self._buffer, rows, axis=0, out=out, mode="clip")
        return out

    def _allocate(self, count: int) -> NDArray[np.int64]:
        """Take `count` rows (so many are free): returned rows first, untouched memory last."""
        parts: list[NDArray[np.int64]] = []
        self._num_free -= count
        while count and self._free:
            rows = self._free.pop()
            if len(rows) > count:
                self._free.append(rows[count:])
            parts.append(rows[:count])
            count -= len(parts[-1])
        if count:
            parts.append(np.arange(self._fresh, self._fresh + count, dtype=np.int64))
            self._fresh += count
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


def host_store(config: ReplayConfig, frame_shape: FrameShape, stack: int) -> HostFrameStore:
    """Return a store within the configured bytes, no larger than all frames it could ever be given."""
    # Frames of a full segment: stack - 1 before it, one a column, and the last next frame.
    a_segment = config.segment_steps + config.n_step + stack - 1
    segments = -(-config.capacity // config.segment_steps) + 1
    most = segments * a_segment * math.prod(frame_shape)
    return HostFrameStore(frame_shape, min(config.frame_store_bytes, most))
