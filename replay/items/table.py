"""The item table: where each segment's items, columns and masses live in memory."""

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.config import ReplayConfig
from replay.items.frame_store import FrameStore
from replay.items.priority_index import PriorityIndex
from replay.segments.codec import SegmentHeader
from replay.types import Segment, SegmentIdentity

SLOT = np.dtype(
    [
        ("generation", np.int64),  # number of the segment among all ever inserted; -1: the slot is free
        ("first_leaf", np.int64),
        ("num_items", np.int64),
        ("num_steps", np.int64),  # columns kept: what the items' windows need
        ("lead", np.int64),
        ("weights_version", np.int64),
        ("shard", np.int64),
        ("num_bytes", np.int64),
        ("actor", np.int64),
        ("incarnation", np.int64),
        ("seq", np.int64),
    ]
)
FREE = -1
NO_LIMIT = 2**62
NO_BLOCKS = np.empty((0, 4), np.int64)


def item_table(config: ReplayConfig, store: FrameStore) -> "ItemTable":
    """The empty table of a run."""
    return ItemTable(
        config.capacity,
        config.segment_steps,
        config.n_step,
        store,
        capacity_bytes=config.capacity_bytes,
    )


class ItemTable:
    """Segments in the order they came, on a ring of leaves.

    A segment takes one leaf a column, in one piece; the leaves of columns that start no item (the further
    steps that the last items' returns need) have mass 0 for ever. So a leaf names an item, its column and its
    mass at once. Segments leave oldest first; one that leaves out of turn leaves a hole of mass 0, which the
    ring closes when it comes round. Each segment has a generation, which no other ever has: it tells whether
    a leaf still holds what was drawn.

    A parked segment (its shard is out of reach) keeps its place and its masses, and cannot be drawn.
    """

    def __init__(
        self, capacity: int, segment_steps: int, n_step: int, store: FrameStore, *, capacity_bytes: int = 0
    ) -> None:
        self.capacity = capacity
        self.capacity_bytes = capacity_bytes or NO_LIMIT
        self.n_step = n_step
        longest = segment_steps + n_step - 1
        # Room for columns without an item, a gap at the ring's end, and first segments, which are short.
        self.num_leaves = -(-capacity // segment_steps) * longest + 3 * longest
        self.index = PriorityIndex(self.num_leaves)
        self.store = store
        self.actions = np.zeros(self.num_leaves, np.int32)
        self.rewards = np.zeros(self.num_leaves, np.float32)
        self.terminated = np.zeros(self.num_leaves, np.bool_)
        self.truncated = np.zeros(self.num_leaves, np.bool_)
        self.life_lost = np.zeros(self.num_leaves, np.bool_)
        self.leaf_slots = np.full(self.num_leaves, FREE, np.int32)
        self.kept = np.zeros(self.num_leaves, np.float64)
        """Masses of parked items."""
        self.slots = np.zeros(0, SLOT)
        self.parked = np.zeros(0, np.bool_)
        """(slots,) which segments are parked."""
        self.blocks: list[NDArray[np.int64]] = []
        """Of each slot's segment (num_blocks, 4), as in `block_codec`: none where it was not read yet."""
        self.log_ids: list[str] = []
        """Of each slot's segment; "" while its shard's log is read again and has not named it yet."""
        self.slot_of: dict[SegmentIdentity, int] = {}
        self.num_items = 0
        """Items of all segments."""
        self.num_parked = 0
        """Those that are parked."""
        self.num_bytes = 0
        """Encoded bytes of all segments."""
        self.next_generation = 0
        self.head = 0
        self._free: list[int] = []
        self._fifo: deque[tuple[int, int]] = deque()
        self._fifo_of: defaultdict[int, deque[tuple[int, int]]] = defaultdict(deque)

    @property
    def size(self) -> int:
        """Items that can be drawn."""
        return self.num_items - self.num_parked

    @property
    def num_segments(self) -> int:
        """Segments, parked ones included."""
        return len(self.slot_of)

    def bytes_of(self, shard: int) -> int:
        """Encoded bytes of a shard's segments."""
        own = (self.slots["shard"] == shard) & (self.slots["generation"] != FREE)
        return int(self.slots["num_bytes"][own].sum())

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
        shard: int,
        log_id: str,
        num_bytes: int,
    ) -> int:
        """Add a segment with its items' masses (num_items,) and return its slot; there must be room."""
        columns = self.num_columns(segment.num_items, segment.num_steps)
        where = (self.next_generation, FREE, segment.num_items, columns)
        kind = (segment.lead, segment.weights_version, shard, num_bytes)
        slot = self.reserve((*where, *kind, *segment.identity), masses, log_id)
        self.next_generation += 1
        self.fill(slot, segment, header)
        return slot

    def reserve(self, row: Sequence[Any], masses: NDArray[np.float64], log_id: str) -> int:
        """Give a segment its place, parked, before it is read; returns its slot.

        `row` is as in SLOT, with FREE for a `first_leaf` that is to be found.
        """
        slot = self._take_slot()
        self.slots[slot] = tuple(row)
        at = self.slots[slot]
        columns, num_items = int(at["num_steps"]), int(at["num_items"])
        place = self._place(columns) if at["first_leaf"] == FREE else int(at["first_leaf"])
        if place is None:
            raise ValueError("no room for the segment: evict first")
        at["first_leaf"] = place
        self.leaf_slots[place : place + columns] = slot
        self.kept[place : place + num_items] = masses
        self.parked[slot] = True
        self.log_ids[slot] = log_id
        self.slot_of[self.identity(slot)] = slot
        self.head = place + columns
        self.num_items += num_items
        self.num_parked += num_items
        self.num_bytes += int(at["num_bytes"])
        entry = (slot, int(at["generation"]))
        self._fifo.append(entry)
        self._fifo_of[int(at["shard"])].append(entry)
        return slot

    def fill(self, slot: int, segment: Segment, header: SegmentHeader) -> None:
        """Take in the segment for which a place was reserved: it can be drawn from now on."""
        first, columns = int(self.slots["first_leaf"][slot]), int(self.slots["num_steps"][slot])
        part = slice(first, first + columns)
        self.actions[part] = segment.actions[:columns]
        self.rewards[part] = segment.rewards[:columns]
        self.terminated[part] = segment.terminated[:columns]
        self.truncated[part] = segment.truncated[:columns]
        self.life_lost[part] = segment.life_lost[:columns]
        self.blocks[slot] = header.blocks
        self.store.put(int(self.slots["generation"][slot]), segment.frames[: segment.lead + columns + 1])
        self.unpark([slot])

    def park(self, shard: int) -> int:
        """Park all segments of a shard; returns the number of items that were not."""
        own = (self.slots["generation"] != FREE) & (self.slots["shard"] == shard) & ~self.parked
        slots = np.flatnonzero(own).tolist()
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

    def move(self, slot: int, shard: int, log_id: str) -> None:
        """Note that a segment is now kept in another shard."""
        self.slots["shard"][slot] = shard
        self.log_ids[slot] = log_id
        self._fifo_of[shard].append((slot, int(self.slots["generation"][slot])))

    def remove(self, slot: int) -> None:
        """Take a segment out: masses to 0, frames forgotten, its leaves free for others."""
        at = self.slots[slot]
        first, columns = int(at["first_leaf"]), int(at["num_steps"])
        self.index.set_range(first, np.zeros(columns))
        self.leaf_slots[first : first + columns] = FREE
        self.store.drop(int(at["generation"]))
        num_items, shard = int(at["num_items"]), int(at["shard"])
        self.num_items -= num_items
        self.num_parked -= num_items if self.parked[slot] else 0
        self.num_bytes -= int(at["num_bytes"])
        self.parked[slot] = False
        del self.slot_of[self.identity(slot)]
        at["generation"] = FREE
        self.blocks[slot] = NO_BLOCKS
        self._free.append(slot)
        self.oldest()  # both queues forget what has left, so that neither grows
        self.oldest(shard)

    def oldest(self, shard: int | None = None) -> int | None:
        """Slot of the oldest segment (of one shard), or None."""
        queue = self._fifo if shard is None else self._fifo_of[shard]
        while queue and not self._is_at(*queue[0], shard):
            queue.popleft()  # it left out of turn, or moved
        return queue[0][0] if queue else None

    def in_order(self) -> NDArray[np.int64]:
        """Slots of all segments, oldest first."""
        slots = np.flatnonzero(self.slots["generation"] != FREE)
        return slots[np.argsort(self.slots["generation"][slots])]

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
            self.index.note_mass(masses[parked])
            leaves, masses = leaves[~parked], masses[~parked]
        self.index.set(leaves, masses)

    def items_held(self, leaves: NDArray[np.int64], generations: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(B,) whether each leaf still holds the item of that generation."""
        inside = (leaves >= 0) & (leaves < self.num_leaves)
        slots = np.where(inside, self.leaf_slots[np.where(inside, leaves, 0)], FREE)
        if not len(self.slots):
            return np.zeros(len(leaves), np.bool_)
        held = self.slots[np.maximum(slots, 0)]
        starts_item = leaves < held["first_leaf"] + held["num_items"]
        same: NDArray[np.bool_] = (slots != FREE) & starts_item & (held["generation"] == generations)
        return same

    def identity(self, slot: int) -> SegmentIdentity:
        """A segment's identity."""
        row = self.slots[slot]
        return SegmentIdentity(int(row["actor"]), int(row["incarnation"]), int(row["seq"]))

    def identities(self, slots: NDArray[np.int64]) -> list[SegmentIdentity]:
        """Identities (B,) of the segments in slots (B,)."""
        rows = self.slots[slots]
        columns = (rows[name].tolist() for name in SegmentIdentity._fields)
        return list(map(SegmentIdentity, *columns))

    def _is_at(self, slot: int, generation: int, shard: int | None) -> bool:
        row = self.slots[slot]
        return bool(row["generation"] == generation) and shard in (None, row["shard"])

    def _place(self, columns: int) -> int | None:
        """First leaf for so many columns in one piece, or None where there is no room."""
        oldest = self.oldest()
        cursor = None if oldest is None else int(self.slots["first_leaf"][oldest])
        if cursor is None or self.head > cursor:
            if self.head + columns <= self.num_leaves:
                return self.head
            return 0 if columns <= (self.num_leaves if cursor is None else cursor) else None
        return self.head if self.head + columns <= cursor else None

    def _take_slot(self) -> int:
        if not self._free:
            old = len(self.slots)
            new = max(64, 2 * old)
            self.slots = np.concatenate([self.slots, np.zeros(new - old, SLOT)])
            self.slots["generation"][old:] = FREE
            self.parked = np.concatenate([self.parked, np.zeros(new - old, np.bool_)])
            self.blocks.extend([NO_BLOCKS] * (new - old))
            self.log_ids.extend([""] * (new - old))
            self._free = list(range(new - 1, old - 1, -1))
        return self._free.pop()
