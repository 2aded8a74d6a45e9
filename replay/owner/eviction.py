"""Eviction: delete the oldest segments, by number of items and bytes over all shards, and from a
shard that fills up.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from redis import RedisError

from replay.items.counters import Counters
from replay.items.table import ItemTable
from replay.log.cursor import WARN_EVERY_S, LogCursor, Memory
from replay.shards.records import log_order
from replay.types import SegmentIdentity

HIGH_WATER = 0.90
"""Share of a server's `maxmemory` above which its oldest segments are evicted."""
LOW_WATER = 0.88
"""Share down to which they are evicted."""
CHECK_SECONDS = 1.0
"""Longest time between two polls of a server's memory."""

logger = logging.getLogger(__name__)

Leaving = tuple[str, SegmentIdentity | None]
"""A log entry's id, and the segment to delete with it (None: only the entry)."""


def was_evicted(generation: int, oldest_there: int | None, *, log_goes_on: bool) -> bool:
    """Whether a segment that its shard no longer has was evicted, and not lost.

    Segments are evicted oldest first, so a segment that is gone though an older one is there was lost. Where
    none is there, a log that goes on shows that the server kept its data and the segments were evicted.
    """
    return log_goes_on if oldest_there is None else generation < oldest_there


class PendingDeletions:
    """Segments that left the table and must still be deleted from the shards; kept until a shard confirms.

    The entries deleted are exactly those that left, wherever they are in the log. With `deletes`
    off (for samplers that only read) nothing is noted.
    """

    def __init__(self, cursors: Sequence[LogCursor], *, deletes: bool) -> None:
        self._cursors, self._deletes = cursors, deletes
        self._waiting: defaultdict[int, list[Leaving]] = defaultdict(list)
        self._told: dict[int, list[Leaving]] = {}

    def note(self, shard_index: int, log_id: str, identity: SegmentIdentity | None) -> None:
        """Note that a log entry is to be deleted, and its segment unless `identity` is None.

        Without an id, only the segment is deleted: if its log, which is being read again, names it,
        the entry is noted then.
        """
        if self._deletes:
            self._waiting[shard_index].append((log_id, identity))
            # An anchor that this deletes must not look like an entry that the server lost.
            self._cursors[shard_index].forget(log_id)

    def note_eviction(self, shard_index: int, log_id: str, identity: SegmentIdentity) -> None:
        """Note an evicted segment for deletion, with the entries before it that are set aside."""
        unindexed = self._cursors[shard_index].unindexed
        # Nothing else would ever delete entries that were set aside: they have no segment to evict.
        while log_id and unindexed and log_order(unindexed[0][0]) < log_order(log_id):
            self.note(shard_index, *unindexed.popleft())
        self.note(shard_index, log_id, identity)

    def forget(self, shard_index: int) -> None:
        """Discard the deletions of a shard whose log is not as it was left: rereading it shows them again."""
        self._waiting.pop(shard_index, None)
        self._told.pop(shard_index, None)

    def flush(self, shards: Iterable[int]) -> None:
        """Send these shards their deletions; the answers are read with those of the next poll."""
        for shard_index in shards:
            if shard_index in self._waiting and shard_index not in self._told:
                # Noted before it is sent, because `tell` reports a broken connection at once.
                leaving = self._told[shard_index] = self._waiting.pop(shard_index)
                cursor = self._cursors[shard_index]
                cursor.pipeline.tell(
                    cursor.shard.owning.deletion(leaving), self._outcome(shard_index, leaving)
                )

    @property
    def state(self) -> list[list[Any]]:
        """JSON-able: shard, log id and identity of each deletion that is not confirmed."""
        parts = [*self._told.items(), *self._waiting.items()]
        return [[index, log_id, name and list(name)] for index, part in parts for log_id, name in part]

    def restore(self, state: Iterable[Sequence[Any]]) -> None:
        """Restore `state`, except for shards that no longer exist."""
        for shard_index, log_id, name in state:
            if shard_index < len(self._cursors):
                self.note(int(shard_index), str(log_id), name and SegmentIdentity.of(*name))

    def _outcome(self, shard_index: int, leaving: list[Leaving]) -> Any:
        def note(answers: Sequence[Any] | None) -> None:
            # By identity: an equal list may be of the log as it was before.
            if self._told.get(shard_index) is not leaving:  # discarded by `forget` meanwhile
                return
            del self._told[shard_index]
            refusals = [answer for answer in answers or () if isinstance(answer, RedisError)]
            if refusals:
                self._cursors[shard_index].warn(refusals[0])
            if refusals or answers is None:
                # In front, so that they keep their order; repeating a deletion that was made is harmless.
                self._waiting[shard_index] = leaving + self._waiting[shard_index]

        return note


class Eviction:
    """Decides which segments leave: at once from the table, and from Redis at the next flush of
    `pending_deletions`.

    A draw therefore never asks for a segment that is already deleted, and a crash between the two
    leaves only a segment in Redis that a restart finds again.
    """

    def __init__(self, table: ItemTable, counters: Counters, pending_deletions: PendingDeletions) -> None:
        self._table, self._counters, self._pending_deletions = table, counters, pending_deletions
        self._checked_at: defaultdict[int, float] = defaultdict(lambda: float("-inf"))
        self._bytes_since: defaultdict[int, int] = defaultdict(int)
        self._maximum: defaultdict[int, int] = defaultdict(int)
        self._left: defaultdict[int, int] = defaultdict(int)
        self._warned_at: defaultdict[int, float] = defaultdict(lambda: float("-inf"))

    def make_room(self, num_items: int, num_steps: int, num_bytes: int) -> None:
        """Evict the oldest segments of all shards until a segment of this size fits."""
        while not self._table.has_room(num_items, num_steps, num_bytes):
            oldest = self._table.oldest()
            if oldest is None:
                raise ValueError(f"a segment of {num_items} items and {num_bytes} bytes can never fit")
            self.evict(oldest)

    def note_bytes(self, shard_index: int, num_bytes: int) -> None:
        """Note that a shard holds this many more bytes."""
        self._bytes_since[shard_index] += num_bytes

    def due(self, shards: Iterable[int]) -> set[int]:
        """Return the shards whose memory to ask for now: once a second, or sooner after 1 % of it came in."""
        now = time.monotonic()
        return {
            shard_index
            for shard_index in shards
            if now - self._checked_at[shard_index] >= CHECK_SECONDS
            # A second may be long: fast writers could fill the room above the mark in it.
            or self._bytes_since[shard_index] > self._maximum[shard_index] // 100
        }

    def relieve(self, memories: Mapping[int, Memory | None]) -> None:
        """Evict from the servers that are above the high-water mark, by the memory that they reported."""
        for shard_index, memory in memories.items():
            if memory is None:
                continue
            self._checked_at[shard_index], self._bytes_since[shard_index] = time.monotonic(), 0
            self._maximum[shard_index] = memory.maximum
            if memory.maximum > 0 and memory.used > HIGH_WATER * memory.maximum:
                # Other runs on the server free their own share. What is missing then shows in the next poll.
                share = self._table.bytes_of(shard_index) / memory.used
                self._free_bytes(shard_index, share * (memory.used - LOW_WATER * memory.maximum))

    def _free_bytes(self, shard_index: int, num_bytes: float) -> None:
        evicted = freed = 0
        while freed <= num_bytes and (oldest := self._table.oldest(shard_index)) is not None:
            freed += int(self._table.slots["num_bytes"][oldest])
            evicted += self.evict(oldest)
        if evicted:
            # Ask for the memory again with the next poll: the estimate above may have freed too little.
            self._checked_at[shard_index] = float("-inf")
        self._left[shard_index] += evicted
        if time.monotonic() - self._warned_at[shard_index] >= WARN_EVERY_S:
            self._warned_at[shard_index], left = time.monotonic(), self._left.pop(shard_index)
            what = f": its oldest {left} items leave" if left else ", and none of its segments can be evicted"
            logger.warning("shard %d is over %.0f %% of its memory%s", shard_index, 100 * HIGH_WATER, what)

    def evict(self, slot: int) -> int:
        """Remove a segment from the table and note it for deletion; return its number of items."""
        row, log_id = self._table.slots[slot], self._table.log_ids[slot]
        num_items = int(row["num_items"])
        self._pending_deletions.note_eviction(int(row["shard"]), log_id, self._table.identity(slot))
        self._table.remove(slot)
        self._counters.evicted += num_items
        return num_items
