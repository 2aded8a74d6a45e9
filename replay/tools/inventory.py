"""List what a run's shards hold, from their logs and the fronts of their segments; nothing is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.errors import SegmentError
from replay.segments.codec import SegmentHeader, decode_header
from replay.shards.records import LogEntry
from replay.tools.stored_shard import StoredShard
from replay.types import SegmentIdentity

STORED = np.dtype(
    [
        ("shard", np.int64),
        ("written_ms", np.int64),  # unix time by the shard's clock, from the log id
        ("num_items", np.int64),
        ("num_steps", np.int64),
        ("num_bytes", np.int64),
        ("weights_version", np.int64),  # -1: the segment's front could not be read
        ("actor", np.int64),
        ("incarnation", np.int64),
        ("seq", np.int64),
    ]
)
HEADER_BYTES = 4096
"""Read of each segment first: the front of a segment of 64 steps takes about 1,500 bytes."""


@dataclass(frozen=True)
class Inventory:
    """A run's segments as one array, and counts of the other log entries."""

    segments: NDArray[Any]
    """(segments,) STORED, by shard and then in log order, each identity once."""
    duplicates: int
    """Log entries of an identity that occurred before: left by a writer's retries."""
    missing: int
    """Log entries whose segment is not stored (any more)."""
    unreadable: int
    """Log entries that are not ours, and segments whose front is damaged."""

    @property
    def items(self) -> int:
        """Number of transitions."""
        return int(self.segments["num_items"].sum())

    def identities(self) -> list[SegmentIdentity]:
        """Return the identities of all segments, in the array's order."""
        return SegmentIdentity.of_rows(self.segments)


def take_inventory(shards: Sequence[StoredShard]) -> Inventory:
    """Read all logs and the fronts of all segments. Raises ShardError and ShardUnavailable."""
    seen: set[SegmentIdentity] = set()
    rows: list[tuple[int, ...]] = []
    counts = {"duplicates": 0, "missing": 0, "unreadable": 0}
    for shard in shards:
        for entries in shard.entries():
            fresh: dict[SegmentIdentity, LogEntry] = {}
            for entry in entries:
                if entry.identity is None:
                    counts["unreadable"] += 1
                elif entry.identity in seen or entry.identity in fresh:
                    counts["duplicates"] += 1
                else:
                    fresh[entry.identity] = entry
            headers = read_headers(shard, list(fresh))
            for (identity, entry), header in zip(fresh.items(), headers, strict=True):
                if header is None:
                    counts["missing"] += 1
                    continue
                # Only now: an entry without a segment must not hide a copy of it on another shard.
                seen.add(identity)
                counts["unreadable"] += isinstance(header, SegmentError)
                # A damaged segment is listed all the same, by what its log entry says.
                rows.append(_row(shard.index, entry, header))
    return Inventory(np.array(rows, STORED), **counts)


def read_headers(
    shard: StoredShard, identities: Sequence[SegmentIdentity]
) -> list[SegmentHeader | SegmentError | None]:
    """Read the fronts of segments: None for a segment that is gone, an error for a damaged one."""
    fronts = shard.fetch_ranges([(identity, 0, HEADER_BYTES) for identity in identities])
    headers: list[SegmentHeader | SegmentError | None] = []
    for identity, front in zip(identities, fronts, strict=True):
        headers.append(_header(front))
        if isinstance(headers[-1], SegmentError) and len(front) == HEADER_BYTES:
            headers[-1] = _header(shard.fetch([identity])[0] or b"")  # a front longer than HEADER_BYTES
    return headers


def _header(front: bytes) -> SegmentHeader | SegmentError | None:
    if not front:
        return None
    try:
        return decode_header(front)
    except SegmentError as error:
        return error


def _row(shard_index: int, entry: LogEntry, header: SegmentHeader | SegmentError) -> tuple[int, ...]:
    assert entry.identity is not None
    written = int(entry.log_id.partition("-")[0])
    version = -1 if isinstance(header, SegmentError) else header.weights_version
    counts = (entry.num_items, entry.num_steps, entry.num_bytes)
    return (shard_index, written, *counts, version, *entry.identity)


def checkpoint_masses(
    arrays: Mapping[str, NDArray[Any]],
) -> dict[SegmentIdentity, NDArray[np.float64]]:
    """Return the masses (num_items,) of each segment, from the sampler's part of a checkpoint."""
    identities = SegmentIdentity.of_rows(arrays)
    cuts = np.cumsum(arrays["num_items"])[:-1]
    # Without segments, `np.split` would still return one part.
    parts = np.split(np.asarray(arrays["masses"], np.float64), cuts) if identities else []
    return dict(zip(identities, parts, strict=True))
