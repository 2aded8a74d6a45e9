"""The items of all segments held: their columns, masses and leaves, in memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.config import ReplayConfig
from replay.items.frame_store import FrameStore
from replay.items.priority_index import PriorityIndex
from replay.items.segment_table import FREE, SLOT, SegmentTable, StepColumns
from replay.segments.codec import SegmentHeader
from replay.types import Segment

NO_LIMIT = 2**62


def item_table(config: ReplayConfig, store: FrameStore) -> "ItemTable":
    """The empty table of a run."""
    return ItemTable(
        config.capacity,
        config.segment_steps,
        config.n_step,
        store,
        capacity_bytes=config.capacity_bytes,
    )


class ItemTable(SegmentTable):
    """Lays segments on a ring of leaves, in the order they came.

    A segment takes one leaf a column, in one piece; the leaves of columns that start no item (the further
    steps that the last items' returns need) always have mass 0. So a leaf names an item, its column and its
    mass at once. Segments leave oldest first; a segment that leaves out of turn leaves a hole of mass 0,
    which the ring closes when it comes round. A parked segment keeps its leaves and masses, and cannot be
    drawn.
    """

    def __init__(
        self, capacity: int, segment_steps: int, n_step: int, store: FrameStore, *, capacity_bytes: int = 0
    ) -> None:
        super().__init__()
        self.capacity = capacity
        self.capacity_bytes = capacity_bytes or NO_LIMIT
        self.n_step = n_step
        longest = segment_steps + n_step - 1
        # Room for columns without an item, a gap at the ring's end, and first segments, which are short.
        self.num_leaves = -(-capacity // segment_steps) * longest + 3 * longest
        self.index = PriorityIndex(self.num_leaves)
        self.store = store
        self.columns = StepColumns(self.num_leaves)
        self.leaf_slots = np.full(self.num_leaves, FREE, np.int32)
        self.kept = np.zeros(self.num_leaves, np.float64)
        """Masses of parked items."""
        self.num_items = 0
        """Items of all segments."""
        self.num_parked = 0
        """Items of parked segments."""
        self.head = 0

    @property
    def size(self) -> int:
        """Items that can be drawn."""
        return self.num_items - self.num_parked

    def num_columns(self, num_items: int, num_steps: int) -> int:
        """Columns kept of a segment: data of a larger n-step has more than this reader's items need."""
        return min(num_steps, num_items + self.n_step - 1)

    def fits_ever(self, num_items: int, num_steps: int, num_bytes: int) -> bool:
        """Whether a segment fits when everything else has left."""
        columns = self.num_columns(num_items, num_steps)
        return num_items <= self.capacity and num_bytes <= self.capacity_bytes and columns <= self.num_leaves

    def has_room(self, num_items: int, num_steps: int, num_bytes: int) -> bool:
        """Whether a segment fits now."""
        return (
            self.num_items + num_items <= self.capacity
            and self.num_bytes + num_bytes <= self.capacity_bytes
            and self._place(self.num_columns(num_items, num_steps)) is not None
        )

    def insert(
        self,
        segment: Segment,
        header: SegmentHeader,
        masses: NDArray[np.float64],
        *,
        shard_index: int,
        log_id: str,
        num_bytes: int,
    ) -> int:
        """Add a segment with its items' masses (num_items,) and return its slot; there must be room."""
        columns = self.num_columns(segment.num_items, segment.num_steps)
        where = (self.next_generation, FREE, segment.num_items, columns)
        kind = (segment.lead, segment.weights_version, shard_index, num_bytes)
        slot = self.reserve((*where, *kind, *segment.identity), masses, log_id)
        self.next_generation += 1
        self.fill(slot, segment, header)
        return slot

    def reserve(self, row: Sequence[Any], masses: NDArray[np.float64], log_id: str) -> int:
        """Give a segment its place, parked, before it is read; returns its slot.

        `row` is as in SLOT, with FREE for a `first_leaf` that is to be found. Raises ValueError without room.
        """
        at = np.array([tuple(row)], SLOT)[0]
        columns, num_items = int(at["num_steps"]), int(at["num_items"])
        place = self._place(columns) if at["first_leaf"] == FREE else int(at["first_leaf"])
        if place is None:
            raise ValueError("no room for the segment: evict first")
        at["first_leaf"] = place
        slot = self._add(at, log_id)
        self.leaf_slots[place : place + columns] = slot
        self.kept[place : place + num_items] = masses
        self.head = place + columns
        self.num_items += num_items
        self.num_parked += num_items
        return slot

    def fill(self, slot: int, segment: Segment, header: SegmentHeader) -> None:
        """Take in the segment for which a place was reserved: it can be drawn from now on."""
        first, columns = int(self.slots["first_leaf"][slot]), int(self.slots["num_steps"][slot])
        self.columns.put(first, columns, segment)
        self.blocks[slot] = header.blocks
        # Data of a larger n-step has more frames than the columns kept.
        self.store.put(int(self.slots["generation"][slot]), segment.frames[: segment.lead + columns + 1])
        self.unpark([slot])

    def park(self, shard_index: int) -> int:
        """Park all segments of a shard; returns the number of items that were not."""
        own = self.of_shard(shard_index)
        slots = own[~self.parked[own]]
        leaves = self.item_leaves(slots)
        self.kept[leaves] = self.index.mass(leaves)
        self.index.set(leaves, 0.0)
        self.parked[slots] = True
        self.num_parked += len(leaves)
        return len(leaves)

    def unpark(self, slots: Sequence[int]) -> None:
        """Let parked segments that were read be drawn again."""
        for slot in slots:
            first, num_items = int(self.slots["first_leaf"][slot]), int(self.slots["num_items"][slot])
            self.index.set_range(first, self.kept[first : first + num_items])
            self.parked[slot] = False
            self.num_parked -= num_items

    def remove(self, slot: int) -> None:
        """Take a segment out: masses to 0, frames forgotten, its leaves free for others."""
        at = self.slots[slot]
        first, columns, num_items = int(at["first_leaf"]), int(at["num_steps"]), int(at["num_items"])
        self.index.set_range(first, np.zeros(columns))
        self.leaf_slots[first : first + columns] = FREE
        self.store.drop(int(at["generation"]))
        self.num_items -= num_items
        self.num_parked -= num_items if self.parked[slot] else 0
        self._forget(slot)

    def leaves(self, slot: int) -> NDArray[np.int64]:
        """All leaves of a segment, with those of columns that start no item."""
        first = int(self.slots["first_leaf"][slot])
        return np.arange(first, first + int(self.slots["num_steps"][slot]), dtype=np.int64)

    def item_leaves(self, slots: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Leaves of the items of segments, one segment after the other."""
        rows = self.slots[np.asarray(slots, np.int64)]
        counts = rows["num_items"]
        within = np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
        leaves: NDArray[np.int64] = np.repeat(rows["first_leaf"], counts) + within
        return leaves

    def masses(self, leaves: NDArray[np.int64]) -> NDArray[np.float64]:
        """Masses (B,) of items (B,), parked or not."""
        parked = self.parked[self.leaf_slots[leaves]] if self.num_parked else np.zeros(len(leaves), np.bool_)
        return np.where(parked, self.kept[leaves], self.index.mass(leaves))

    def set_masses(self, leaves: NDArray[np.int64], masses: NDArray[np.float64]) -> None:
        """Set the masses (B,) of items (B,), parked or not; of one that comes twice the last one counts."""
        if self.num_parked:
            parked = self.parked[self.leaf_slots[leaves]]
            self.kept[leaves[parked]] = masses[parked]
            # The index does not see these masses, but new items enter with the largest of all.
            self.index.note_mass(masses[parked])
            leaves, masses = leaves[~parked], masses[~parked]
        self.index.set(leaves, masses)

    def items_held(self, leaves: NDArray[np.int64], generations: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(B,) whether each leaf still holds the item of that generation."""
        inside = (leaves >= 0) & (leaves < self.num_leaves)
        slots = np.where(inside, self.leaf_slots[np.where(inside, leaves, 0)], FREE)
        if not len(self.slots):
            return np.zeros(len(leaves), np.bool_)
        # FREE is negative: slot 0 stands in for it, and `same` excludes these leaves.
        held = self.slots[np.maximum(slots, 0)]
        starts_item = leaves < held["first_leaf"] + held["num_items"]
        same: NDArray[np.bool_] = (slots != FREE) & starts_item & (held["generation"] == generations)
        return same

    def _place(self, columns: int) -> int | None:
        """First leaf for so many columns in one piece, or None where there is no room."""
        oldest = self.oldest()
        # Leaves from `cursor` (the oldest segment's first) up to the head count as taken; if both
        # are equal, all do.
        cursor = None if oldest is None else int(self.slots["first_leaf"][oldest])
        if cursor is None or self.head > cursor:
            if self.head + columns <= self.num_leaves:
                return self.head
            # A segment lies in one piece, so the leaves at the ring's end stay unused.
            return 0 if columns <= (self.num_leaves if cursor is None else cursor) else None
        return self.head if self.head + columns <= cursor else None
