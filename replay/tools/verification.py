"""Read and check all that a run's shards hold: checksums, logs against keys, priorities."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from replay.errors import SegmentError, StrayEntry
from replay.items.priority_index import finite_and_not_negative
from replay.segments.codec import decode
from replay.shards.records import LogEntry
from replay.shards.shard import KEYS
from replay.tools.stored_shard import StoredShard
from replay.types import SegmentIdentity, Signature

PAGE = 128
"""Segments read at once: some 4 to 10 MB of encoded bytes."""
WRONG = {
    "corrupt": "segments with a wrong checksum, size or structure",
    "version": "segments of another format version",
    "run": "segments of another run",
    "signature": "segments that cannot serve the signature noted here",
    "stray": "log entries that are not ours, or not of the segment that they name",
    "missing": "log entries whose segment is gone",
    "orphans": "segments that no log entry names",
    "unknown_keys": "keys below the run's prefix that are not ours",
    "no_signature": "shards with segments but without a signature",
    "bad_priorities": "initial priorities that are NaN, infinite or negative",
    "bad_masses": "priorities in the checkpoint that are NaN, infinite or negative",
    "wrong_masses": "segments with another number of priorities in the checkpoint than items",
}
"""Each kind of fault, in words."""


@dataclass
class Verification:
    """Report of a verification: the number of segments read, and how often each kind in `WRONG` was found."""

    segments: int = 0
    items: int = 0
    num_bytes: int = 0
    duplicates: int = 0
    """Further log entries of a segment, left by a writer's retries; the owner deletes them."""
    evicted: int = 0
    """Segments that were evicted while they were being checked, as happens in a live run."""
    wrong: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """The first of each kind, in one line."""

    def note(self, kind: str, example: str) -> None:
        """Count one fault."""
        self.wrong[kind] += 1
        self.examples.setdefault(kind, example)


def verify(
    shards: Sequence[StoredShard],
    *,
    run: str,
    masses: Mapping[SegmentIdentity, NDArray[np.float64]] | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Verification:
    """Read and check everything.

    `masses` are those of the newest checkpoint; `progress` is called with the log entries done and
    in all. Sound on a live run, too: what is evicted or written meanwhile is no fault. Raises
    ShardError.
    """
    found, seen = Verification(), set[SegmentIdentity]()
    total = sum(int(shard.administration.info()["log_length"]) for shard in shards)
    done = 0
    for shard in shards:
        keys = shard.keys()  # before the log: the log, read later, names every key found here
        for name in keys.others:
            if name not in KEYS:
                found.note("unknown_keys", f"{shard!r}: {name[:80]!r}")
        signature = shard.signature()
        if signature is None and keys.segments:
            found.note("no_signature", repr(shard))
        logged = set[SegmentIdentity]()
        for entries in shard.entries(PAGE):
            logged.update(entry.identity for entry in entries if entry.identity is not None)
            _check_page(found, shard, entries, seen, run, signature, masses or {})
            done += len(entries)
            # A live run's log grows, so there may be more entries than were counted.
            progress(done, max(done, total))
        _check_orphans(found, shard, keys.segments - logged)
    for identity, own in (masses or {}).items():
        if not finite_and_not_negative(own).all():
            found.note("bad_masses", f"segment {identity}")
    return found


def _check_page(
    found: Verification,
    shard: StoredShard,
    entries: Sequence[LogEntry],
    seen: set[SegmentIdentity],
    run: str,
    signature: Signature | None,
    masses: Mapping[SegmentIdentity, NDArray[np.float64]],
) -> None:
    ours = [entry for entry in entries if entry.identity is not None]
    for entry in entries:
        if entry.identity is None:
            found.note("stray", f"{shard!r}: log entry {entry.log_id}")
    data = shard.fetch([entry.identity for entry in ours if entry.identity is not None])
    for entry, encoded in zip(ours, data, strict=True):
        assert entry.identity is not None
        if entry.identity in seen:
            found.duplicates += 1
            continue
        if encoded is None:
            _check_missing(found, shard, entry)
            continue
        # Only now: an entry without a segment must not hide a copy of it on another shard.
        seen.add(entry.identity)
        found.segments += 1
        found.items += entry.num_items
        found.num_bytes += len(encoded)
        own = masses.get(entry.identity)
        if own is not None and len(own) != entry.num_items:
            found.note("wrong_masses", f"segment {entry.identity}")
        try:
            _check_segment(found, entry, encoded, run, signature)
        except SegmentError as error:
            found.note(error.kind, f"{shard!r}: {error}")


def _check_segment(
    found: Verification, entry: LogEntry, encoded: bytes, run: str, signature: Signature | None
) -> None:
    """Raise SegmentError for bytes that are not the segment of this run that the log names."""
    segment = decode(encoded, run=run, signature=signature)
    if not entry.is_of(segment, len(encoded)):
        raise StrayEntry(f"{entry} is not of the segment {segment.identity} that is stored")
    raw = segment.priorities
    if raw is not None and not finite_and_not_negative(raw).all():
        found.note("bad_priorities", f"segment {entry.identity}")


def _check_missing(found: Verification, shard: StoredShard, entry: LogEntry) -> None:
    """Note a missing segment, unless it is only evicted: then its log entry is deleted a moment later."""
    # `read_log` begins after an id, so it is given the id right before.
    still_logged = shard.read_log(_before(entry.log_id), 1)
    if still_logged and still_logged[0].log_id == entry.log_id:
        found.note("missing", f"{shard!r}: segment {entry.identity}, log entry {entry.log_id}")
    else:
        found.evicted += 1


def _check_orphans(found: Verification, shard: StoredShard, candidates: set[SegmentIdentity]) -> None:
    """Note segments that were stored before the log was read and are not in it, unless evicted since."""
    ordered = sorted(candidates)
    for identity, stored in zip(ordered, shard.exist(ordered), strict=True):
        if stored:
            found.note("orphans", f"{shard!r}: segment {identity}")
        else:
            found.evicted += 1


def _before(log_id: str) -> str:
    """Return the log id right before this one."""
    milliseconds, _, sequence = log_id.partition("-")
    if int(sequence):
        return f"{milliseconds}-{int(sequence) - 1}"
    return f"{int(milliseconds) - 1}-{2**64 - 1}" if int(milliseconds) else "0-0"
