"""Reads what writers committed: tails the shards' logs, fetches segments, sorts out bad ones and copies."""

import bisect
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from replay.errors import CorruptSegment, SegmentError, ShardError
from replay.records import LogEntry
from replay.segment import SegmentHeader, decode_with_header
from replay.shard import LOG_START, Shard
from replay.types import Segment, SegmentIdentity, Signature

log = logging.getLogger(__name__)

COUNTERS = ("segments", "items", "bytes", "duplicates", "missing", "corrupt", "foreign")


@dataclass(frozen=True)
class ReceivedSegment:
    """A segment as it was read: where its log entry is and how large it is in the shard."""

    shard: int
    log_id: str
    num_bytes: int
    header: SegmentHeader
    segment: Segment


class SeenSequences:
    """A set of integers kept as sorted ranges [start, end), small when they arrive nearly in order."""

    def __init__(self, ranges: Sequence[Sequence[int]] = ()) -> None:
        self._starts = [int(start) for start, _ in ranges]
        self._ends = [int(end) for _, end in ranges]

    def __contains__(self, value: int) -> bool:
        place = bisect.bisect_right(self._starts, value) - 1
        return place >= 0 and value < self._ends[place]

    def add(self, value: int) -> None:
        """Add one integer, joining ranges that meet."""
        if value in self:
            return
        place = bisect.bisect_right(self._starts, value)
        joins_left = place > 0 and self._ends[place - 1] == value
        joins_right = place < len(self._starts) and self._starts[place] == value + 1
        if joins_left and joins_right:
            self._ends[place - 1] = self._ends.pop(place)
            self._starts.pop(place)
        elif joins_left:
            self._ends[place - 1] = value + 1
        elif joins_right:
            self._starts[place] = value
        else:
            self._starts.insert(place, value)
            self._ends.insert(place, value + 1)

    @property
    def ranges(self) -> list[list[int]]:
        """The ranges, JSON-able."""
        return [[start, end] for start, end in zip(self._starts, self._ends, strict=True)]


class LogReader:
    """Tails the shards' logs, each segment once. `signature` is what the reader needs of the data.

    `counters` counts segments, items and bytes taken, and what was not taken: duplicates, missing (an entry
    whose segment is gone), corrupt and foreign.
    """

    def __init__(self, shards: Sequence[Shard], *, run: str, signature: Signature) -> None:
        self._shards = list(shards)
        self._run, self._signature = run, signature
        self._cursors = [LOG_START] * len(self._shards)
        self._seen: dict[tuple[int, int], SeenSequences] = {}
        self._copies: list[tuple[int, LogEntry]] = []
        self.counters = Counter(dict.fromkeys(COUNTERS, 0))

    @property
    def cursors(self) -> list[str]:
        """Id of the last log entry read, per shard."""
        return list(self._cursors)

    def poll(self, limit: int) -> list[ReceivedSegment]:
        """The next segments in log order, taking turns between the shards; [] when there are none.

        Never blocks. Reads at most about `limit` log entries over all shards (at least one a shard). When it
        raises ShardUnavailable, nothing was taken.
        """
        self._delete_copies()
        share = max(1, limit // max(1, len(self._shards)))
        places = zip(self._shards, self._cursors, strict=True)
        logs = [shard.read_log(cursor, share) for shard, cursor in places]
        read = [self._fetch(index, entries) for index, entries in enumerate(logs)]
        turns = (pair for pair in chain.from_iterable(zip_longest(*read)) if pair is not None)
        received = [self._take(index, entry, data) for index, entry, data in turns]
        self._cursors = [
            entries[-1].log_id if entries else cursor
            for entries, cursor in zip(logs, self._cursors, strict=True)
        ]
        return [segment for segment in received if segment is not None]

    @property
    def state(self) -> dict[str, Any]:
        """Cursors, counters and the identities taken so far, JSON-able."""
        seen = {f"{actor}.{incarnation}": s.ranges for (actor, incarnation), s in self._seen.items()}
        return {"cursors": self.cursors, "seen": seen, "counters": dict(self.counters)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; raises ShardError when it is of another number of shards."""
        known = len(state["cursors"])
        if known != len(self._shards):
            raise ShardError(f"the checkpoint is of {known} shards, not of {len(self._shards)}")
        self._cursors = [str(cursor) for cursor in state["cursors"]]
        self._seen = {}
        for name, ranges in state["seen"].items():
            actor, _, incarnation = name.partition(".")
            self._seen[int(actor), int(incarnation)] = SeenSequences(ranges)
        self.counters = Counter(dict.fromkeys(COUNTERS, 0) | state["counters"])

    def _fetch(self, index: int, entries: list[LogEntry]) -> list[tuple[int, LogEntry, bytes | None]]:
        """Entries with their segments' bytes; what is already known as a duplicate is not fetched."""
        wanted = [e.identity for e in entries if e.identity is not None and not self._is_seen(e.identity)]
        data = dict(zip(wanted, self._shards[index].fetch(wanted), strict=True))
        return [(index, entry, data.get(entry.identity) if entry.identity else None) for entry in entries]

    def _take(self, index: int, entry: LogEntry, data: bytes | None) -> ReceivedSegment | None:
        identity = entry.identity
        if identity is not None and self._is_seen(identity):
            self.counters["duplicates"] += 1
            self._copies.append((index, entry))
            return None
        if identity is not None and data is None:
            self.counters["missing"] += 1
            return None
        try:
            header, segment = self._decode(entry, data)
        except SegmentError as error:
            self.counters[error.kind] += 1
            log.warning("%r, log entry %s: %s", self._shards[index], entry.log_id, error)
            return None
        self._seen.setdefault(segment.identity[:2], SeenSequences()).add(segment.identity.seq)
        assert data is not None
        self.counters.update(segments=1, items=segment.num_items, bytes=len(data))
        return ReceivedSegment(index, entry.log_id, len(data), header, segment)

    def _decode(self, entry: LogEntry, data: bytes | None) -> tuple[SegmentHeader, Segment]:
        if entry.identity is None or data is None:
            raise CorruptSegment("not an entry of ours")
        header, segment = decode_with_header(data, run=self._run, signature=self._signature)
        named = (entry.identity, entry.num_items, entry.num_steps, entry.num_bytes)
        if named != (segment.identity, segment.num_items, segment.num_steps, len(data)):
            raise CorruptSegment(f"segment {segment.identity} is not what its log entry says")
        return header, segment

    def _is_seen(self, identity: SegmentIdentity) -> bool:
        seen = self._seen.get(identity[:2])
        return seen is not None and identity.seq in seen

    def _delete_copies(self) -> None:
        # Before reading, so that an error here loses nothing; a copy left behind leaves with its log entry.
        while self._copies:
            index, entry = self._copies[-1]
            self._shards[index].delete_copy(entry)
            self._copies.pop()
