"""A writer that puts anything into a run's log and says what a reader has to make of each of it."""

from collections import Counter
from dataclasses import replace
from typing import Any

from replay.segments.codec import encode
from replay.segments.header import MAX_STEPS
from replay.shards.records import parse_entry
from replay.shards.shard import Shard
from replay.types import Segment, SegmentIdentity, Signature
from tests.helpers.replay.fuzzing import log_fields
from tests.helpers.replay.segments import of_version
from tests.helpers.shards.servers import SIGNATURE, make_segment

HUGE = 2**31 - 1
ACTOR = 77

KINDS = (
    "good",
    "copy",
    "missing",
    "noise",
    "damaged",
    "longer",
    "shorter",
    "misnamed",
    "miscounted",
    "no string",
    "other run",
    "other version",
    "other shape",
    "smaller stack",
    "fewer actions",
    "row of noise",
    "huge numbers",
    "huge total",
    "bold total",
)
"""Kinds of entries that `HostileLog.put` knows."""


class HostileLog:
    """Writes rows and segments of one run past every check; `expected` is what a reader must count, and
    `lost` the items of segments that it must count as lost.
    """

    def __init__(self, shard: Shard, run: str, signature: Signature = SIGNATURE) -> None:
        self.shard, self.run, self.signature = shard, run, signature
        self.client = shard.client
        self.log = f"apexpert:{{{run}:{shard.index}}}:log"
        self.expected: Counter[str] = Counter()
        self.lost = 0
        self.good: list[Segment] = []
        self._seq = 0

    def put(self, kind: str, noise: bytes = b"", fields: dict[bytes, bytes] | None = None) -> None:
        """Write one thing of this kind; `noise` are bytes and `fields` a log row, drawn by the fuzzer."""
        segment = self._segment(self.signature)
        identity = segment.identity
        self._seq += 1
        data = encode(segment, self.run, self.signature)
        match kind:
            case "good":
                self._commit(segment, data, "segments")
                self.good.append(segment)
            case "copy" if self.good:
                again = self.good[-1]
                self._commit(again, encode(again, self.run, self.signature), "duplicates")
            case "copy" | "row of noise":
                self.client.xadd(self.log, fields or {b"what": b"ever"})
                self.expected["stray"] += 1
            case "missing":
                self._row(log_fields(identity, 8, 10, 500), "missing")
            case "bold total":  # as much as its writer could have written by then, over nothing
                most = {"t": MAX_STEPS * (identity.seq + 1)}
                self._row(log_fields(identity, MAX_STEPS, MAX_STEPS, 500) | most, "missing")
            case "huge total":
                self._row(log_fields(identity, 8, 10, 500) | {"t": 2**61}, "stray")
            case "huge numbers":
                numbers = [(HUGE, HUGE, HUGE), (MAX_STEPS + 1, MAX_STEPS + 1, 500), (8, 10_000, 500)]
                self._row(log_fields(identity, *numbers[len(noise) % 3]), "stray")
            case "other run" | "other version" | "other shape" | "smaller stack" | "fewer actions":
                self._foreign(kind, segment, data)
            case _:
                self._deform(kind, segment, data, noise)

    def foresee(self, identity: SegmentIdentity, items: int) -> None:
        """Name a segment that somebody else may write later, and say anything of it."""
        total = {"t": MAX_STEPS * (identity.seq + 1)}
        self.client.xadd(self.log, log_fields(identity, items, items, 500) | total)

    def clean_up(self) -> None:
        """Delete the run's keys, which others on the server could stumble over."""
        self.client.unlink(*self.client.scan_iter(f"apexpert:{{{self.run}:*", count=10_000), "none")

    def _foreign(self, kind: str, segment: Segment, data: bytes) -> None:
        if kind == "other run":
            self._commit(segment, encode(segment, "another", self.signature), "run")
            return
        if kind == "other version":
            self._commit(segment, of_version(2, data), "version")
            return
        changes: dict[str, dict[str, Any]] = {
            "other shape": {"frame_shape": (9, 5)},
            "smaller stack": {"stack": 2},
            "fewer actions": {"num_actions": 3},
        }
        change = changes[kind]
        theirs = replace(self.signature, **change)
        segment = replace(self._segment(theirs), identity=segment.identity)
        self._commit(segment, encode(segment, self.run, theirs), "signature")

    def _deform(self, kind: str, segment: Segment, data: bytes, noise: bytes) -> None:
        """A row that looks right, over bytes that are not."""
        identity, sizes = segment.identity, (segment.num_items, segment.num_steps, len(data))
        key = self.shard.segment_key(identity)
        if kind == "no string":
            self.client.hset(key, "a", "b")
            self._row(log_fields(identity, *sizes), "corrupt")
            return
        other = replace(segment, identity=SegmentIdentity(9, 9, 9))
        value, expected = {
            "noise": (noise or b"\0", "corrupt"),
            "damaged": (data[:40] + bytes([data[40] ^ 1 + (len(noise) % 255)]) + data[41:], "corrupt"),
            "longer": (data + b"\0" * (1 + len(noise)), "stray"),
            "shorter": (data[: -1 - len(noise) % 50], "stray"),
            "misnamed": (encode(other, self.run, self.signature), "stray"),
            "miscounted": (data, "stray"),
        }[kind]
        if kind == "miscounted":
            sizes = (sizes[0] + 1, *sizes[1:])
        self.client.set(key, value)
        self._row(log_fields(identity, *sizes), expected)

    def _segment(self, signature: Signature) -> Segment:
        return make_segment(self._seq, actor=ACTOR, signature=signature)

    def _commit(self, segment: Segment, data: bytes, expected: str) -> None:
        self.shard.writing.commit(segment.identity, data, segment.num_items, segment.num_steps)
        self.expected[expected] += 1
        self.lost += segment.num_items if expected not in ("segments", "duplicates") else 0

    def _row(self, fields: dict[str, Any], expected: str) -> None:
        self.client.xadd(self.log, fields)
        self.expected[expected] += 1
        row = {name.encode(): str(value).encode() for name, value in fields.items()}
        self.lost += parse_entry(b"1-0", row).num_items
