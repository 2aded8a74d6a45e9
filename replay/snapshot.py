"""The item table in a checkpoint: which segments, where they lie, and their masses; never their frames."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.errors import SegmentError
from replay.items import SLOT, ItemTable
from replay.segment import SegmentHeader, decode_with_header
from replay.shard import Shard
from replay.types import Segment, SegmentIdentity, Signature

FETCH_SEGMENTS = 128
"""Segments read back at once: some 4 to 10 MB of encoded and 64 MB of decoded frames."""


@dataclass(frozen=True)
class RestoreReport:
    """How much of a checkpoint's replay was still there."""

    exact: bool
    """Draws go on bit for bit as they would have."""
    dropped: int
    """Items that are not there any more."""
    items: int
    """Items that are."""
    missing_segments: int = 0
    """Segments that their shards no longer hold."""
    rejected_segments: int = 0
    """Segments whose bytes are damaged or of another kind."""


def table_state(table: ItemTable) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """JSON-able values and arrays: one entry a segment, oldest first, and all items' masses in that order."""
    slots = table.in_order()
    rows = table.slots[slots]
    masses = [
        table.index.mass(table.leaves(slot)[: table.slots["num_items"][slot]]) for slot in slots.tolist()
    ]
    document = {
        "layout": _layout(table),
        "head": table.head,
        "next_generation": table.next_generation,
        "max_mass": table.index.max_mass,
        "log_ids": [table.log_ids[slot] for slot in slots.tolist()],
    }
    arrays: dict[str, NDArray[Any]] = {name: rows[name].copy() for name in SLOT.names or ()}
    return document, arrays | {"masses": np.concatenate([np.empty(0), *masses])}


def restore_table(
    table: ItemTable,
    shards: Sequence[Shard],
    document: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    *,
    run: str,
    signature: Signature,
) -> RestoreReport:
    """Fill an empty table from a checkpoint, reading the segments back from the shards.

    With the layout of the checkpoint each segment comes to lie where it lay, gaps included, so that the sum
    tree is the same; with another one (capacity, segment length or n-step changed) they are laid out anew,
    the newest that fit.
    """
    if table.num_segments:
        raise ValueError("a checkpoint can only be restored into a sampler that has ingested nothing")
    same_layout = document["layout"] == _layout(table)
    rows = _rows(arrays)
    starts = np.cumsum([0, *rows["num_items"].tolist()])
    skip = 0 if same_layout else _first_that_fits(table, rows)
    missing = rejected = 0
    for i, found in _read_back(rows, skip, shards, run, signature):
        if found is None:
            missing += 1
        elif isinstance(found, SegmentError):
            rejected += 1
        else:
            masses = arrays["masses"][starts[i] : starts[i + 1]]
            _put_back(table, rows[i], document["log_ids"][i], found, masses, same_layout)
    table.next_generation = int(document["next_generation"])
    table.index.max_mass = float(document["max_mass"])
    if same_layout:
        table.head = int(document["head"])
    dropped = int(rows["num_items"].sum()) - table.size
    return RestoreReport(same_layout and not dropped, dropped, table.size, missing, rejected)


def _layout(table: ItemTable) -> list[int]:
    return [table.capacity, table.num_leaves, table.n_step]


def _rows(arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    rows = np.zeros(len(arrays["generation"]), SLOT)
    for name in SLOT.names or ():
        rows[name] = arrays[name]
    return rows


def _first_that_fits(table: ItemTable, rows: NDArray[Any]) -> int:
    """Number of oldest segments to leave out so that the others fit a table of another layout."""
    items = np.cumsum(rows["num_items"][::-1])
    # An n-step raised back to what the data was written with brings columns back: reckon with the most there
    # can be.
    leaves = np.cumsum((rows["num_items"] + table.n_step - 1)[::-1])
    fits = (items <= table.capacity) & (leaves < table.num_leaves)
    return len(rows) - int(fits.sum())


def _read_back(
    rows: NDArray[Any], skip: int, shards: Sequence[Shard], run: str, signature: Signature
) -> Iterator[tuple[int, tuple[SegmentHeader, Segment] | SegmentError | None]]:
    """(row, segment) in order; None for one that is gone, an error for one that is not what it was."""
    for start in range(skip, len(rows), FETCH_SEGMENTS):
        chunk = range(start, min(start + FETCH_SEGMENTS, len(rows)))
        data: dict[int, bytes | None] = {}
        for shard, server in enumerate(shards):
            own = [i for i in chunk if rows["shard"][i] == shard]
            data.update(zip(own, server.fetch([_identity(rows[i]) for i in own]), strict=True))
        for i in chunk:
            encoded = data.pop(i, None)  # a shard that this run no longer has holds nothing
            yield i, None if encoded is None else _decode(encoded, rows[i], run, signature)


def _decode(
    data: bytes, row: Any, run: str, signature: Signature
) -> tuple[SegmentHeader, Segment] | SegmentError:
    try:
        header, segment = decode_with_header(data, run=run, signature=signature)
    except SegmentError as error:
        return error
    if segment.identity != _identity(row) or segment.num_items != row["num_items"]:
        return SegmentError(f"segment {segment.identity} is not the one that was there")
    return header, segment


def _put_back(
    table: ItemTable,
    row: Any,
    log_id: str,
    found: tuple[SegmentHeader, Segment],
    masses: NDArray[Any],
    same_layout: bool,
) -> None:
    header, segment = found
    table.insert(
        segment,
        header,
        np.asarray(masses, np.float64),
        shard=int(row["shard"]),
        log_id=log_id,
        num_bytes=int(row["num_bytes"]),
        first_leaf=int(row["first_leaf"]) if same_layout else None,
        generation=int(row["generation"]),
    )


def _identity(row: Any) -> SegmentIdentity:
    return SegmentIdentity(int(row["actor"]), int(row["incarnation"]), int(row["seq"]))
