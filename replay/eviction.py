"""Eviction: the oldest segments leave by number of items over all shards, and by bytes from a shard that
fills up.
"""

import logging
import time
from collections.abc import Sequence

from replay.inspection import Counters
from replay.items import ItemTable
from replay.shard import Shard
from replay.types import SegmentIdentity

HIGH_WATER = 0.90
"""Share of a server's `maxmemory` above which its oldest segments leave."""
LOW_WATER = 0.88
"""Share down to which they leave."""
CHECK_SECONDS = 1.0
"""Longest time between two looks at a server's memory while segments come in."""

logger = logging.getLogger(__name__)


class Eviction:
    """Decides who leaves, and takes it out: leaves first, Redis after.

    So a draw never asks for what is already gone, and whatever happens between the two only leaves a segment
    in Redis that a restart indexes again. Trimming is never part of a transaction: a full Redis refuses it.
    """

    def __init__(self, table: ItemTable, shards: Sequence[Shard], counters: Counters) -> None:
        self._table = table
        self._shards = shards
        self._counters = counters
        self._left: list[list[tuple[str, SegmentIdentity]]] = [[] for _ in shards]
        self._checked_at = [float("-inf")] * len(shards)
        self._bytes_since = [0] * len(shards)
        self._maximum = [0] * len(shards)

    def make_room(self, num_items: int, num_steps: int) -> None:
        """Evict the oldest segments of all until one of this size fits."""
        while not self._table.has_room(num_items, num_steps):
            oldest = self._table.oldest()
            if oldest is None:
                raise ValueError(f"a segment of {num_items} items can never fit")
            self._evict(oldest)

    def note_bytes(self, shard: int, num_bytes: int) -> None:
        """Note that a shard holds so many bytes more."""
        self._bytes_since[shard] += num_bytes

    def relieve(self, *, force: bool = False) -> None:
        """Look at the servers' memory, and evict from those that are over the high-water mark.

        A look costs one round trip, so it is taken once a second, or sooner when 1 % of the memory came in.
        """
        for shard, server in enumerate(self._shards):
            now = time.monotonic()
            much = self._bytes_since[shard] > self._maximum[shard] // 100
            if not (force or much or now - self._checked_at[shard] >= CHECK_SECONDS):
                continue
            used, maximum = server.memory()
            self._checked_at[shard], self._bytes_since[shard], self._maximum[shard] = now, 0, maximum
            if maximum > 0 and used > HIGH_WATER * maximum:
                self._free_bytes(shard, used - int(LOW_WATER * maximum))

    def flush(self) -> None:
        """Trim the logs and unlink the segments of what has left, one call a shard."""
        for shard, left in enumerate(self._left):
            if left:
                self._shards[shard].evict(left[-1][0], [identity for _, identity in left])
                left.clear()

    def _free_bytes(self, shard: int, num_bytes: int) -> None:
        evicted = freed = 0
        while freed < num_bytes and (oldest := self._table.oldest(shard)) is not None:
            freed += int(self._table.slots["num_bytes"][oldest])
            evicted += self._evict(oldest)
        if evicted:
            logger.warning("shard %d is over 90 %% of its memory: its oldest %d items leave", shard, evicted)
        else:
            logger.warning("shard %d is over 90 %% of its memory, and nothing of it can leave", shard)

    def _evict(self, slot: int) -> int:
        """Take a segment out of the table and note it for `flush`; returns its number of items."""
        shard, num_items = int(self._table.slots["shard"][slot]), int(self._table.slots["num_items"][slot])
        self._left[shard].append((self._table.log_ids[slot], self._table.identity(slot)))
        self._table.remove(slot)
        self._counters.evicted += num_items
        return num_items
