"""The item table in a checkpoint: which segments, where they lie, and their masses; never their frames."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.errors import SegmentError, ShardUnavailable
from replay.items.counters import Counters
from replay.items.segment_table import FREE, SLOT
from replay.items.table import ItemTable
from replay.owner.eviction import was_evicted
from replay.owner.recovery import FILL_SEGMENTS, Recovery, decode_as
from replay.segments.codec import SegmentHeader
from replay.shards.records import LOG_START
from replay.types import Segment, SegmentIdentity


@dataclass(frozen=True)
class RestoreReport:
    """How much of a checkpoint's replay is still there."""

    exact: bool
    """Whether draws continue bit for bit as they would have."""
    dropped: int
    """Items that are no longer there."""
    items: int
    """Items that can be drawn."""
    missing_segments: int = 0
    """Segments that their shards no longer hold."""
    rejected_segments: int = 0
    """Segments whose bytes are damaged or do not match their row."""
    parked: int = 0
    """Items that wait for a shard that does not answer."""
    refill: int = 0
    """Items to be inserted before the next draw, because too few are left."""

    @property
    def difference(self) -> str:
        """Say how the restored replay differs from the checkpoint, as text for a message."""
        gone = f"{self.dropped} items are gone since"
        waiting = f"{self.parked} items wait for a shard that does not answer"
        parts = [waiting] if self.parked else []
        return " and ".join([gone, *parts] if self.dropped or not parts else parts)


def table_state(table: ItemTable) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the table as JSON-able values and arrays.

    Every array has one entry per segment, oldest first, except `masses`: those of all items in that
    order.
    """
    slots = table.in_order()
    rows = table.slots[slots]
    document = {
        # The sum tree's shape depends on it, and with it which item a point of the mass falls on.
        "layout": _layout(table),
        "head": table.head,
        "next_generation": table.next_generation,
        "max_mass": table.index.max_mass,
        "log_ids": [table.log_ids[slot] for slot in slots.tolist()],
    }
    arrays: dict[str, NDArray[Any]] = {name: rows[name].copy() for name in SLOT.names or ()}
    return document, arrays | {"masses": table.masses(table.item_leaves(slots))}


class Restoration:
    """Fills an empty table from a checkpoint, reading the segments back from the shards.

    With the layout of the checkpoint each segment is put where it was, gaps included, so that the
    sum tree is the same. With another layout (capacity, segment length or n-step changed) the
    newest segments that fit are laid out anew. Segments of a shard that does not answer keep their
    places, parked; if these cannot be computed without the segments (another n-step), the segments
    come back as if they were new.
    """

    def __init__(
        self,
        recovery: Recovery,
        counters: Counters,
        document: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
    ) -> None:
        self._recovery, self._table = recovery, recovery.table
        self._counters = counters
        self._document, self._masses = document, arrays["masses"]
        self._rows = _rows(arrays)
        # Masses have no rows of their own: they are found by the item counts of all rows before.
        self._starts = np.cumsum([0, *self._rows["num_items"].tolist()])
        self._same_layout = document["layout"] == _layout(self._table)
        self._same_columns = document["layout"][-1] == self._table.n_step
        self._missing: list[int] = []
        self._rejected: list[int] = []
        self._gone: dict[int, list[int]] = {}
        """For each shard, rows whose segments are gone."""
        self._oldest: dict[int, int] = {}
        """For each shard, the generation of its oldest segment that is there."""

    def run(self) -> RestoreReport:
        """Restore the table; raises ValueError if it is not empty."""
        table, document, rows = self._table, self._document, self._rows
        if table.num_segments:
            raise ValueError("a checkpoint can only be restored into a sampler that has ingested nothing")
        # A table of the same layout holds them all, gaps included; only another one may be too small.
        skip = 0 if self._same_layout else _first_that_fits(table, rows)
        for i in range(skip):
            self._evict(i)
        for start in range(skip, len(rows), FILL_SEGMENTS):
            self._restore_some(range(start, min(start + FILL_SEGMENTS, len(rows))))
        # Only now is it known which shards hold anything at all.
        self._settle_gone()
        if not self._same_columns:
            # Segments of these shards could not be placed unread: their logs bring them back.
            for shard_index in set(range(len(self._recovery.cursors))) - set(self._recovery.live):
                self._recovery.cursors[shard_index].rewind()
        table.next_generation = int(document["next_generation"])
        table.index.max_mass = float(document["max_mass"])
        if self._same_layout:
            table.head = int(document["head"])
        self._counters.rejected += len(self._rejected)
        dropped = int(rows["num_items"].sum()) - table.num_items
        exact = self._same_layout and not dropped and not table.num_parked
        gone = (len(self._missing), len(self._rejected))
        return RestoreReport(exact, dropped, table.size, *gone, table.num_parked)

    def _restore_some(self, chunk: range) -> None:
        data: dict[int, bytes | None] = {}
        for shard_index in range(len(self._recovery.cursors)):
            # Parked shards are not asked: each request would wait for its time-out.
            own = [i for i in chunk if self._rows["shard"][i] == shard_index]
            if own and shard_index not in self._recovery.availability:
                data.update(self._read(shard_index, own))
        for i in chunk:
            if i in data:
                self._restore_one(i, data.pop(i))
            elif self._rows["shard"][i] < len(self._recovery.cursors) and self._same_columns:
                self._reserve(i)
            else:  # a shard that this run no longer has, or whose segments cannot be placed unread
                self._lose(i)

    def _read(self, shard_index: int, rows: list[int]) -> dict[int, bytes | None]:
        sizes = {SegmentIdentity.of_row(self._rows[i]): int(self._rows["num_bytes"][i]) for i in rows}
        try:
            return dict(zip(rows, self._recovery.reader.read_again(shard_index, sizes), strict=True))
        except ShardUnavailable as error:
            self._recovery.park(shard_index, error)
            return {}

    def _restore_one(self, i: int, data: bytes | None) -> None:
        row = self._rows[i]
        found = None if data is None else decode_as(self._recovery.reader, data, row)
        if found is None:
            self._missing.append(i)
            self._gone.setdefault(int(row["shard"]), []).append(i)
        elif isinstance(found, SegmentError):
            # It is there, so its shard has not evicted it: nothing to settle later.
            self._rejected.append(i)
            self._lose(i)
        else:
            # Rows are in the order of their generations.
            self._oldest.setdefault(int(row["shard"]), int(row["generation"]))
            self._put_back(i, *found)

    def _settle_gone(self) -> None:
        """Count the rows in `_gone` as evicted since the checkpoint, or as lost."""
        for shard_index, rows in self._gone.items():
            oldest = self._oldest.get(shard_index)
            log_goes_on = oldest is not None or self._has_log(shard_index)
            for i in rows:
                if was_evicted(int(self._rows["generation"][i]), oldest, log_goes_on=log_goes_on):
                    self._counters.evicted += int(self._rows["num_items"][i])
                    self._set_aside(i)
                else:
                    self._counters.missing += 1
                    self._lose(i)

    def _has_log(self, shard_index: int) -> bool:
        """Whether a shard's log has entries; False where it does not answer."""
        try:
            return bool(self._recovery.cursors[shard_index].shard.read_log(LOG_START, 1))
        except ShardUnavailable as error:
            self._recovery.park(shard_index, error)
            return False

    def _evict(self, i: int) -> None:
        """Evict a segment for which this table has no room."""
        shard_index = int(self._rows["shard"][i])
        self._counters.evicted += int(self._rows["num_items"][i])
        if shard_index < len(self._recovery.cursors):
            self._recovery.pending_deletions.note_eviction(
                shard_index, self._document["log_ids"][i], SegmentIdentity.of_row(self._rows[i])
            )

    def _lose(self, i: int) -> None:
        ledger = self._recovery.reader.ledger
        ledger.lose(SegmentIdentity.of_row(self._rows[i]), int(self._rows["num_items"][i]), was_taken=True)
        self._set_aside(i)

    def _set_aside(self, i: int) -> None:
        """Have the entry of a segment that is not restored leave its log with its neighbours."""
        shard_index = int(self._rows["shard"][i])
        if shard_index < len(self._recovery.cursors):
            identity = SegmentIdentity.of_row(self._rows[i])
            self._recovery.cursors[shard_index].set_aside(self._document["log_ids"][i], identity)

    def _put_back(self, i: int, header: SegmentHeader, segment: Segment) -> None:
        columns = self._table.num_columns(segment.num_items, segment.num_steps)
        self._table.fill(self._reserve(i, columns), segment, header)

    def _reserve(self, i: int, columns: int | None = None) -> int:
        row = self._rows[i].copy()
        if not self._same_layout:
            # In another layout the old leaf is somewhere else, or nowhere.
            row["first_leaf"] = FREE
            row["num_steps"] = row["num_steps"] if columns is None else columns
        masses = np.asarray(self._masses[self._starts[i] : self._starts[i + 1]], np.float64)
        return self._table.reserve(row.item(), masses, self._document["log_ids"][i])


def _layout(table: ItemTable) -> list[int]:
    return [table.capacity, table.num_leaves, table.n_step]


def _rows(arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    rows = np.zeros(len(arrays["generation"]), SLOT)
    for name in SLOT.names or ():
        rows[name] = arrays[name]
    return rows


def _first_that_fits(table: ItemTable, rows: NDArray[Any]) -> int:
    """Return how many of the oldest segments to leave out so that the rest fit a table of another layout."""
    items = np.cumsum(rows["num_items"][::-1])
    # An n-step raised back to that of the written data brings columns back: count the most there can be.
    leaves = np.cumsum((rows["num_items"] + table.n_step - 1)[::-1])
    fits = (items <= table.capacity) & (leaves < table.num_leaves)
    return len(rows) - int(fits.sum())
