"""The item table: where each segment's items, columns and masses live in memory."""

from collections import deque
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from replay.frame_store import FrameStore
from replay.priority_index import PriorityIndex
from replay.segment import SegmentHeader
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


class ItemTable:
    """Segments in the order they came, on a ring of leaves.

    A segment takes one leaf a column, in one piece; the leaves of columns that start no item (the further
    steps that the last items' returns need) have mass 0 for ever. So a leaf names an item, its column and its
    mass at once. Segments leave oldest first; one that leaves out of turn leaves a hole of mass 0, which the
    ring closes when it comes round. Each segment has a generation, which no other ever has: it tells whether
    a leaf still holds what was drawn.
    """

    def __init__(
        self, capacity: int, segment_steps: int, n_step: int, store: FrameStore, num_shards: int
    ) -> None:
        self.capacity = capacity
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
        self.slots = np.zeros(0, SLOT)
        self.headers: list[SegmentHeader | None] = []
        self.log_ids: list[str] = []
        self.size = 0
        self.num_segments = 0
        self.num_bytes = 0
        self.next_generation = 0
        self.head = 0
        self._free: list[int] = []
        self._fifo: deque[tuple[int, int]] = deque()
        self._fifo_of: list[deque[tuple[int, int]]] = [deque() for _ in range(num_shards)]

    def num_columns(self, num_items: int, num_steps: int) -> int:
        """Columns kept of a segment: data of a larger n-step has more than this reader's items need."""
        return min(num_steps, num_items + self.n_step - 1)

    def fits_ever(self, num_items: int, num_steps: int) -> bool:
        """Whether a segment fits when everything else has left."""
        return num_items <= self.capacity and self.num_columns(num_items, num_steps) <= self.num_leaves

    def has_room(self, num_items: int, num_steps: int) -> bool:
        """Whether a segment fits now."""
        columns = self.num_columns(num_items, num_steps)
        return self.size + num_items <= self.capacity and self._place(columns) is not None

    def insert(
        self,
        segment: Segment,
        header: SegmentHeader,
        masses: NDArray[np.float64],
        *,
        shard: int,
        log_id: str,
        num_bytes: int,
        first_leaf: int | None = None,
        generation: int | None = None,
    ) -> int:
        """Add a segment with its items' masses (num_items,) and return its slot; there must be room for it.

        `first_leaf` and `generation` put a segment back where a checkpoint had it.
        """
        columns = self.num_columns(segment.num_items, segment.num_steps)
        place = self._place(columns) if first_leaf is None else first_leaf
        if place is None:
            raise ValueError("no room for the segment: evict first")
        if generation is None:
            generation = self.next_generation
            self.next_generation += 1
        slot = self._take_slot()
        where = (generation, place, segment.num_items, columns, segment.lead, segment.weights_version)
        self.slots[slot] = (*where, shard, num_bytes, *segment.identity)
        self.headers[slot] = _without_columns(header)
        self.log_ids[slot] = log_id
        self._fill(slot, segment, place, columns, masses)
        self.store.put(generation, segment.frames[: segment.lead + columns + 1])
        self.head = place + columns
        self.size += segment.num_items
        self.num_segments += 1
        self.num_bytes += num_bytes
        self._fifo.append((slot, generation))
        self._fifo_of[shard].append((slot, generation))
        return slot

    def remove(self, slot: int) -> None:
        """Take a segment out: masses to 0, frames forgotten, its leaves free for others."""
        leaves = self.leaves(slot)
        self.index.set(leaves, 0.0)
        self.leaf_slots[leaves] = FREE
        self.store.drop(int(self.slots["generation"][slot]))
        self.size -= int(self.slots["num_items"][slot])
        self.num_segments -= 1
        self.num_bytes -= int(self.slots["num_bytes"][slot])
        self.slots["generation"][slot] = FREE
        self.headers[slot] = None
        self._free.append(slot)
        self.oldest()  # both queues forget what has left, so that neither grows
        self.oldest(int(self.slots["shard"][slot]))

    def oldest(self, shard: int | None = None) -> int | None:
        """Slot of the oldest segment (of one shard), or None."""
        queue = self._fifo if shard is None else self._fifo_of[shard]
        while queue and self.slots["generation"][queue[0][0]] != queue[0][1]:
            queue.popleft()  # it left out of turn
        return queue[0][0] if queue else None

    def in_order(self) -> NDArray[np.int64]:
        """Slots of all segments, oldest first."""
        slots = np.flatnonzero(self.slots["generation"] != FREE)
        return slots[np.argsort(self.slots["generation"][slots])]

    def leaves(self, slot: int) -> NDArray[np.int64]:
        """All leaves of a segment, with those of columns that start no item."""
        first = int(self.slots["first_leaf"][slot])
        return np.arange(first, first + int(self.slots["num_steps"][slot]), dtype=np.int64)

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

    def _fill(
        self, slot: int, segment: Segment, place: int, columns: int, masses: NDArray[np.float64]
    ) -> None:
        """Write a segment's columns and masses."""
        part = slice(place, place + columns)
        self.actions[part] = segment.actions[:columns]
        self.rewards[part] = segment.rewards[:columns]
        self.terminated[part] = segment.terminated[:columns]
        self.truncated[part] = segment.truncated[:columns]
        self.life_lost[part] = segment.life_lost[:columns]
        self.leaf_slots[part] = slot
        self.index.set(np.arange(place, place + segment.num_items), masses)

    def _place(self, columns: int) -> int | None:
        """First leaf for so many columns in one piece, or None where there is no room."""
        oldest = self.oldest()
        tail = None if oldest is None else int(self.slots["first_leaf"][oldest])
        if tail is None or self.head > tail:
            if self.head + columns <= self.num_leaves:
                return self.head
            return 0 if columns <= (self.num_leaves if tail is None else tail) else None
        return self.head if self.head + columns <= tail else None

    def _take_slot(self) -> int:
        if not self._free:
            old = len(self.slots)
            new = max(64, 2 * old)
            self.slots = np.concatenate([self.slots, np.zeros(new - old, SLOT)])
            self.slots["generation"][old:] = FREE
            self.headers.extend([None] * (new - old))
            self.log_ids.extend([""] * (new - old))
            self._free = list(range(new - 1, old - 1, -1))
        return self._free.pop()


def _without_columns(header: SegmentHeader) -> SegmentHeader:
    """A header for reading blocks only: its columns lie in the table already."""
    no_flags = np.empty(0, np.bool_)
    return replace(
        header,
        actions=np.empty(0, np.int32),
        rewards=np.empty(0, np.float32),
        terminated=no_flags,
        truncated=no_flags,
        life_lost=no_flags,
        priorities=None,
    )
