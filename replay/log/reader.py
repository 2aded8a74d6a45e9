"""Read what writers committed: poll the logs, fetch segments, and set aside bad segments and duplicates."""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from replay.errors import SegmentError, ShardUnavailable, StrayEntry
from replay.log.cursor import LogCursor, Poll
from replay.log.ledger import SegmentLedger
from replay.log.rejections import REJECTED, Rejections
from replay.segments.codec import SegmentHeader, decode_body, decode_header
from replay.segments.header import most_bytes
from replay.shards.pipeline import Request, is_wrong_type, pack
from replay.shards.records import LogEntry
from replay.shards.shard import Shard
from replay.types import Segment, SegmentIdentity, Signature

COUNTERS = ("segments", "items", "bytes", "duplicates", "missing", *REJECTED)
POLL_BYTES = 64 * 1024**2
"""Bytes of encoded segments taken from a shard at once, unless one segment alone is larger."""
POLL_FRAMES_BYTES = 256 * 1024**2
"""Bytes of decoded frames taken at once, likewise."""
Rows = list[tuple[int, LogEntry, bytes | None]]


@dataclass(frozen=True)
class ReceivedSegment:
    """A segment as read, with the shard and log entry that named it and its encoded size."""

    shard_index: int
    log_id: str
    num_bytes: int
    header: SegmentHeader
    segment: Segment
    was_lost: bool
    """Whether it was taken before and lost in between."""


class LogReader:
    """Follows the shards' logs and reads each segment once. `signature` is what the reader needs of the data.

    `counters` counts segments, items and bytes taken, and what was not taken: duplicates, missing
    (an entry whose segment is gone) and the kinds of `replay/log/rejections.py`. The entries of
    duplicates are kept in `repeats`.
    """

    def __init__(
        self, shards: Sequence[Shard], *, run: str, signature: Signature, anchored: bool = True
    ) -> None:
        """`anchored` as in LogCursor."""
        self.cursors = [LogCursor(shard, anchored=anchored) for shard in shards]
        self._run, self._signature, self._anchored = run, signature, anchored
        self.ledger = SegmentLedger()
        self.repeats: list[tuple[int, LogEntry]] = []
        self.failures: dict[int, ShardUnavailable] = {}
        """Shards that did not answer, until the caller clears them."""
        self.counters = Counter(dict.fromkeys(COUNTERS, 0))
        self._rejections = Rejections(self.counters)
        self._most_bytes = most_bytes(signature.frame_shape)

    @property
    def positions(self) -> list[str]:
        """Id of the last log entry read, per shard."""
        return [cursor.position for cursor in self.cursors]

    def add_shard(self, shard: Shard) -> None:
        """Read one more shard from now on."""
        self.cursors.append(LogCursor(shard, anchored=self._anchored))

    def poll(
        self, limit: int, shards: Iterable[int] | None = None, *, memory: Container[int] = ()
    ) -> dict[int, Poll]:
        """Poll these shards (all, if None) for at most about `limit` log entries over all of them.

        All are asked before any answer is awaited. Shards that do not answer are left out and noted
        in `failures`. Nothing is taken yet. `memory` holds the shards whose memory is asked for as
        well.
        """
        asked = list(range(len(self.cursors)) if shards is None else shards)
        share = max(1, limit // max(1, len(asked)))
        for shard_index in asked:
            self.cursors[shard_index].ask(share, memory=shard_index in memory)
        polls = {}
        for shard_index in asked:
            try:
                polls[shard_index] = self.cursors[shard_index].answer()
            except ShardUnavailable as error:
                self.failures[shard_index] = error
        return polls

    def take(self, polls: Mapping[int, Poll]) -> Iterator[ReceivedSegment]:
        """Iterate over the segments that the polls found, in log order, alternating between the shards.

        The iterator must be exhausted: the cursors have already advanced. Each segment is decoded
        when its turn comes, so that its frames are still in the processor's cache when they are
        copied. A shard that fails now is noted in `failures`, and nothing of it is taken.
        """
        entries = {index: self._within_memory(poll.entries) for index, poll in polls.items() if poll.entries}
        if not entries:
            return iter(())
        found = self._fetch(entries)
        for shard_index, rows in found.items():
            self.cursors[shard_index].advance(entries[shard_index])
            self._keep_what_turned_up(shard_index, rows)
        turns = (row for row in chain.from_iterable(zip_longest(*found.values())) if row is not None)
        received = (self._take(*row) for row in turns)
        return (segment for segment in received if segment is not None)

    def read_again(self, shard_index: int, sizes: Mapping[SegmentIdentity, int]) -> list[bytes | None]:
        """Fetch segments of these sizes as bytes, None for any that is gone; raises ShardUnavailable."""
        pipeline, request = self.cursors[shard_index].pipeline, self._request(shard_index, sizes)
        pipeline.ask(request)
        return [_found(answer, self.cursors[shard_index].shard) for answer in pipeline.answer(request)]

    def is_taken(self, entry: LogEntry) -> bool:
        """Whether the entry's segment was taken, and not lost since."""
        return entry.identity is not None and self.ledger.is_taken(entry.identity)

    def decode(self, data: bytes) -> tuple[SegmentHeader, Segment]:
        """Decode a segment of this run; raises SegmentError."""
        header = decode_header(data)
        return header, decode_body(header, data, run=self._run, signature=self._signature)

    @property
    def state(self) -> dict[str, Any]:
        """Where each shard was read to, what became of which segments, and the counters; JSON-able."""
        cursors = [cursor.state for cursor in self.cursors]
        return {"tails": cursors, "accounts": self.ledger.state, "counters": dict(self.counters)}

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from where `state` was taken; shards that it does not know are read from their beginning."""
        for cursor, known in zip(self.cursors, state["tails"], strict=False):
            cursor.restore(known)
        self.ledger.restore(state["accounts"])
        self.counters.clear()
        self.counters.update(dict.fromkeys(COUNTERS, 0) | state["counters"])

    def _within_memory(self, entries: list[LogEntry]) -> list[LogEntry]:
        """Return the first entries that fit into memory by their claimed sizes, which `_decode` checks."""
        frame_bytes = self._signature.frame_bytes
        encoded = decoded = 0
        for place, entry in enumerate(entries):
            if self.is_taken(entry):
                continue  # not fetched
            # A larger claim is cut to this size when the segment is fetched.
            encoded += min(entry.num_bytes, self._most_bytes)
            decoded += (self._signature.stack + entry.num_steps) * frame_bytes
            if place and (encoded > POLL_BYTES or decoded > POLL_FRAMES_BYTES):
                return entries[:place]
        return entries

    def _fetch(self, entries: Mapping[int, list[LogEntry]]) -> dict[int, Rows]:
        """Fetch the segments of entries, per shard; segments already taken are not fetched."""
        wanted = {shard_index: self._wanted(rows) for shard_index, rows in entries.items()}
        requests = {shard_index: self._request(shard_index, sizes) for shard_index, sizes in wanted.items()}
        for shard_index, request in requests.items():
            self.cursors[shard_index].pipeline.ask(request)
        found: dict[int, Rows] = {}
        for shard_index, rows in entries.items():
            try:
                answers = self.cursors[shard_index].pipeline.answer(requests[shard_index])
            except ShardUnavailable as error:
                self.failures[shard_index] = error
                continue
            read = (_found(answer, self.cursors[shard_index].shard) for answer in answers)
            data = dict(zip(wanted[shard_index], read, strict=True))
            found[shard_index] = [
                (shard_index, row, data.get(row.identity) if row.identity else None) for row in rows
            ]
        return found

    def _keep_what_turned_up(self, shard_index: int, rows: Rows) -> None:
        """Keep segments that were named before they were there from being deleted with those old entries."""
        there = {entry.identity for _, entry, data in rows if entry.identity and data is not None}
        if turned_up := {identity for identity in there if self.ledger.is_lost(identity)}:
            self.cursors[shard_index].keep(turned_up)

    def _wanted(self, entries: list[LogEntry]) -> dict[SegmentIdentity, int]:
        """Return the segments to fetch, each with the largest size that any entry claims for it."""
        sizes: dict[SegmentIdentity, int] = {}
        for entry in entries:
            if entry.identity is not None and not self.is_taken(entry):
                # A second entry that claims too little must not cut the segment off.
                sizes[entry.identity] = max(entry.num_bytes, sizes.get(entry.identity, 0))
        return sizes

    def _request(self, shard_index: int, sizes: Mapping[SegmentIdentity, int]) -> Request:
        """Request one byte more than each segment should have, enough to see that there is more."""
        cursor, most = self.cursors[shard_index], self._most_bytes
        keys = [(cursor.shard.segment_key(identity), min(size, most)) for identity, size in sizes.items()]
        return pack(*[("GETRANGE", key, 0, size) for key, size in keys])

    def _take(self, shard_index: int, entry: LogEntry, data: bytes | None) -> ReceivedSegment | None:
        if self.is_taken(entry):
            self.repeats.append((shard_index, entry))
            # Entries that were read before come again when a log is reread; they are no duplicates.
            self.counters["duplicates"] += not self.cursors[shard_index].was_read(entry.log_id)
            return None
        try:
            header, segment = self._decode(entry, data)
        except (SegmentError, LookupError) as error:
            self._reject(shard_index, entry, error)
            return None
        assert data is not None
        was_lost = self.ledger.take(segment.identity, segment.num_items, entry.total)
        self.counters["segments"] += 1
        self.counters["items"] += segment.num_items
        self.counters["bytes"] += len(data)
        return ReceivedSegment(shard_index, entry.log_id, len(data), header, segment, was_lost)

    def _reject(self, shard_index: int, entry: LogEntry, error: SegmentError | LookupError) -> None:
        self.cursors[shard_index].set_aside(entry.log_id, entry.identity)
        if entry.identity is not None:
            self.ledger.lose(entry.identity, entry.num_items, was_taken=False)
        if self.cursors[shard_index].was_read(entry.log_id):
            return  # counted when it was read first
        if isinstance(error, SegmentError):
            self._rejections.note(error, f"{self.cursors[shard_index].shard!r}, log entry {entry.log_id}")
        else:
            self.counters["missing"] += 1

    def _decode(self, entry: LogEntry, data: bytes | None) -> tuple[SegmentHeader, Segment]:
        if entry.identity is None:
            raise StrayEntry("not an entry of ours")
        if data is None:
            raise LookupError(entry.identity)
        header = decode_header(data)
        if not entry.is_of(header, len(data)):
            raise StrayEntry(f"segment {header.identity} is not what its log entry says")
        return header, decode_body(header, data, run=self._run, signature=self._signature)


def _found(answer: Any, shard: Shard) -> bytes | None:
    """Return a segment's bytes: None if it is gone, b"" if its key holds something other than bytes.

    Raises ShardError for a refusal.
    """
    if isinstance(answer, bytes):
        # GETRANGE answers b"" for a key that is gone.
        return answer or None
    if is_wrong_type(answer):
        return b""
    raise shard.refusal(answer)
