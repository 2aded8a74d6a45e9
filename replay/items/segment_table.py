"""The segments held, in the order they came: identity, shard, log id and place of each; and their steps."""

from collections import defaultdict, deque

import numpy as np
from numpy.typing import NDArray

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
NO_BLOCKS = np.empty((0, 4), np.int64)


class SegmentTable:
    """Keeps a slot for each segment; the slot of a segment that left is used again.

    Every segment has a generation of its own. It orders the segments, and tells whether a slot still holds
    the segment that was drawn. A parked segment is one whose shard is out of reach, or that is not read yet.
    """

    def __init__(self) -> None:
        self.slots = np.zeros(0, SLOT)
        self.parked = np.zeros(0, np.bool_)
        """(slots,) which segments are parked."""
        self.blocks: list[NDArray[np.int64]] = []
        """Blocks (num_blocks, 4) of each slot's segment (replay/segments/blocks.py); none if unread."""
        self.log_ids: list[str] = []
        """Log id of each slot's segment; "" while its shard's log is read again and has not named it yet."""
        self.slot_of: dict[SegmentIdentity, int] = {}
        self.num_bytes = 0
        """Encoded bytes of all segments."""
        self.next_generation = 0
        self._free: list[int] = []
        self._fifo: deque[tuple[int, int]] = deque()
        self._fifo_of: defaultdict[int, deque[tuple[int, int]]] = defaultdict(deque)

    @property
    def num_segments(self) -> int:
        """Segments, parked ones included."""
        return len(self.slot_of)

    def of_shard(self, shard_index: int) -> NDArray[np.int64]:
        """Slots of a shard's segments, in no particular order."""
        return np.flatnonzero((self.slots["shard"] == shard_index) & (self.slots["generation"] != FREE))

    def bytes_of(self, shard_index: int) -> int:
        """Encoded bytes of a shard's segments."""
        return int(self.slots["num_bytes"][self.of_shard(shard_index)].sum())

    def oldest(self, shard_index: int | None = None) -> int | None:
        """Slot of the oldest segment (of one shard), or None."""
        queue = self._fifo if shard_index is None else self._fifo_of[shard_index]
        while queue and not self._is_at(*queue[0], shard_index):
            queue.popleft()  # the segment left out of turn, or moved
        return queue[0][0] if queue else None

    def in_order(self) -> NDArray[np.int64]:
        """Slots of all segments, oldest first."""
        slots = np.flatnonzero(self.slots["generation"] != FREE)
        return slots[np.argsort(self.slots["generation"][slots])]

    def identity(self, slot: int) -> SegmentIdentity:
        """A segment's identity."""
        return SegmentIdentity.of_row(self.slots[slot])

    def identities(self, slots: NDArray[np.int64]) -> list[SegmentIdentity]:
        """Identities (B,) of the segments in slots (B,)."""
        return SegmentIdentity.of_rows(self.slots[slots])

    def move(self, slot: int, shard_index: int, log_id: str) -> None:
        """Note that a segment is now kept in another shard."""
        self.slots["shard"][slot] = shard_index
        self.log_ids[slot] = log_id
        self._fifo_of[shard_index].append((slot, int(self.slots["generation"][slot])))

    def _add(self, row: np.void, log_id: str) -> int:
        """Give a segment a slot, parked; `row` is as in SLOT."""
        slot = self._take_slot()
        self.slots[slot] = row
        self.parked[slot] = True
        self.log_ids[slot] = log_id
        self.slot_of[self.identity(slot)] = slot
        at = self.slots[slot]
        self.num_bytes += int(at["num_bytes"])
        entry = (slot, int(at["generation"]))
        self._fifo.append(entry)
        self._fifo_of[int(at["shard"])].append(entry)
        return slot

    def _forget(self, slot: int) -> None:
        """Free a segment's slot for another one."""
        at = self.slots[slot]
        shard_index = int(at["shard"])
        self.num_bytes -= int(at["num_bytes"])
        self.parked[slot] = False
        del self.slot_of[self.identity(slot)]
        at["generation"] = FREE
        self.blocks[slot] = NO_BLOCKS
        self._free.append(slot)
        # Both queues forget what has left, so that neither grows without an end.
        self.oldest()
        self.oldest(shard_index)

    def _is_at(self, slot: int, generation: int, shard_index: int | None) -> bool:
        row = self.slots[slot]
        return bool(row["generation"] == generation) and shard_index in (None, row["shard"])

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


class StepColumns:
    """Columns of a step besides its frames; an entry of these arrays counts while its leaf is taken."""

    def __init__(self, num_leaves: int) -> None:
        self.actions = np.zeros(num_leaves, np.int32)
        self.rewards = np.zeros(num_leaves, np.float32)
        self.terminated = np.zeros(num_leaves, np.bool_)
        self.truncated = np.zeros(num_leaves, np.bool_)
        self.life_lost = np.zeros(num_leaves, np.bool_)

    def put(self, first: int, count: int, segment: Segment) -> None:
        """Take in a segment's first `count` steps, from leaf `first` on."""
        for name, column in vars(self).items():
            column[first : first + count] = getattr(segment, name)[:count]
