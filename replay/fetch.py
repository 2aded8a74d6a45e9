"""Frames of drawn items: out of the frame store, and by byte range from Redis for what it does not hold."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.errors import CorruptSegment
from replay.frame_store import ZERO_ROW, FrameStore, gather_frames
from replay.items import ItemTable
from replay.segment import BLOCK_FRAMES, SegmentHeader, decode_blocks
from replay.shard import Shard
from replay.transitions import stack_positions, stack_rows


class SegmentsGone(Exception):
    """Some segments cannot be read; the slots of those that are missing and of those that are damaged."""

    def __init__(self, missing: list[int], corrupt: list[int]) -> None:
        super().__init__(f"{len(missing)} segments are missing and {len(corrupt)} damaged")
        self.missing = missing
        self.corrupt = corrupt


class Places(NamedTuple):
    """Where the observations of B items end."""

    slots: NDArray[np.int64]
    """(B,) their segments' slots in the item table."""
    newest: NDArray[np.int64]
    """(B,) places of the observations' newest frames within their segments."""
    steps: NDArray[np.int64]
    """(B,) window lengths: the next observations' newest frames come so much later."""

    def take(self, which: NDArray[np.bool_]) -> "Places":
        """Those of some items."""
        return Places(*(field[which] for field in self))


class Observations(NamedTuple):
    """Frames of B transitions, each (B, K, H, W)."""

    observation: NDArray[np.uint8]
    next_observation: NDArray[np.uint8]


class BlockRun(NamedTuple):
    """Consecutive blocks of one segment, read as one byte range."""

    slot: int
    first: int
    last: int


class FrameReader:
    """Builds observations from the store and from Redis; both ways give the same bytes."""

    def __init__(self, table: ItemTable, store: FrameStore, shards: Sequence[Shard], stack: int) -> None:
        self._table = table
        self._store = store
        self._shards = shards
        self._stack = stack
        self.misses = 0
        """Items whose frames were read from Redis because the store did not hold them."""

    def read(self, places: Places) -> Observations:
        """Observations of B items; raises SegmentsGone when some must come from Redis and cannot."""
        unique, inverse = np.unique(places.slots, return_inverse=True)
        generations = self._table.slots["generation"][unique].tolist()
        missed = np.array([self._store.rows(generation) is None for generation in generations])[inverse]
        self._store.touch(generations)
        self.misses += int(missed.sum())
        if not missed.any():
            return self._from_store(places)
        if missed.all():
            return self._from_redis(places)
        parts = (self._from_store(places.take(~missed)), self._from_redis(places.take(missed)))
        merged = []
        for held, fetched in zip(*parts, strict=True):
            whole = np.empty((len(missed), *held.shape[1:]), np.uint8)
            whole[~missed], whole[missed] = held, fetched
            merged.append(whole)
        return Observations(*merged)

    def _from_store(self, places: Places) -> Observations:
        """Observations of items whose segments are all in the store."""
        unique, inverse = np.unique(places.slots, return_inverse=True)
        rows = [
            self._store.rows(generation) for generation in self._table.slots["generation"][unique].tolist()
        ]
        held = [segment_rows for segment_rows in rows if segment_rows is not None]
        first = np.cumsum([0] + [len(segment_rows) for segment_rows in held])[inverse]
        flat = np.concatenate(held)
        return Observations(*(self._store.gather(rows) for rows in self._stacks(flat, first, places)))

    def _from_redis(self, places: Places) -> Observations:
        """Observations of items read by byte ranges: only the blocks they need, one pipeline a shard."""
        unique, inverse = np.unique(places.slots, return_inverse=True)
        runs = self._runs(unique, inverse, places)
        scratch, rows_of = self._frames(runs, self._download(runs))
        sizes = [self._num_frames(slot) for slot in unique.tolist()]
        offsets = np.cumsum([0, *sizes])
        flat = np.full(int(offsets[-1]), ZERO_ROW, np.int64)
        for (slot, block), row in rows_of.items():
            start = int(offsets[np.searchsorted(unique, slot)]) + block * BLOCK_FRAMES
            count = self._header(slot).frames_in_block(block)
            flat[start : start + count] = np.arange(row, row + count)
        return Observations(
            *(gather_frames(scratch, rows) for rows in self._stacks(flat, offsets[inverse], places))
        )

    def _stacks(
        self, flat: NDArray[np.int64], first: NDArray[np.int64], places: Places
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows (B, K) of both observations."""
        newest, later = places.newest, places.newest + places.steps
        return stack_rows(flat, first, newest, self._stack), stack_rows(flat, first, later, self._stack)

    def _runs(self, unique: NDArray[np.int64], inverse: NDArray[np.int64], places: Places) -> list[BlockRun]:
        """The blocks that hold the items' frames, consecutive ones together."""
        ends = (places.newest, places.newest + places.steps)
        positions = np.concatenate([stack_positions(newest, self._stack) for newest in ends], axis=1)
        width = int(positions.max()) // BLOCK_FRAMES + 2  # a gap of one: runs never join across segments
        codes = np.unique((inverse[:, None] * width + positions // BLOCK_FRAMES)[positions >= 0])
        pieces = np.split(codes, np.flatnonzero(np.diff(codes) != 1) + 1)
        return [
            BlockRun(int(unique[piece[0] // width]), int(piece[0] % width), int(piece[-1] % width))
            for piece in pieces
        ]

    def _download(self, runs: list[BlockRun]) -> list[bytes]:
        """Bytes of the runs, in their order; b"" for a segment that is gone."""
        answers = [b""] * len(runs)
        shards = self._table.slots["shard"][[run.slot for run in runs]]
        for shard in np.unique(shards).tolist():
            wanted = np.flatnonzero(shards == shard).tolist()
            ranges = [(self._table.identity(runs[i].slot), *self._byte_range(runs[i])) for i in wanted]
            for i, data in zip(wanted, self._shards[shard].fetch_ranges(ranges), strict=True):
                answers[i] = data
        return answers

    def _frames(
        self, runs: list[BlockRun], answers: list[bytes]
    ) -> tuple[NDArray[np.uint8], dict[tuple[int, int], int]]:
        """Decoded frames (R, H, W) with the zero frame as row 0, and the first row of each (slot, block)."""
        missing: list[int] = []
        corrupt: list[int] = []
        parts: list[NDArray[np.uint8]] = []
        rows_of: dict[tuple[int, int], int] = {}
        next_row = ZERO_ROW + 1
        for run, data in zip(runs, answers, strict=True):
            if not data:
                missing.append(run.slot)
                continue
            try:
                blocks = self._decode(run, data)
            except CorruptSegment:
                corrupt.append(run.slot)
                continue
            for block, frames in blocks.items():
                rows_of[run.slot, block] = next_row
                parts.append(frames)
                next_row += len(frames)
        if missing or corrupt:
            raise SegmentsGone(sorted(set(missing)), sorted(set(corrupt) - set(missing)))
        return np.concatenate([np.zeros((1, *parts[0].shape[1:]), np.uint8), *parts]), rows_of

    def _decode(self, run: BlockRun, data: bytes) -> dict[int, NDArray[np.uint8]]:
        header = self._header(run.slot)
        start = header.block_range(run.first)[0]
        cuts = {block: header.block_range(block) for block in range(run.first, run.last + 1)}
        return decode_blocks(header, {block: data[a - start : b - start] for block, (a, b) in cuts.items()})

    def _byte_range(self, run: BlockRun) -> tuple[int, int]:
        header = self._header(run.slot)
        return header.block_range(run.first)[0], header.block_range(run.last)[1]

    def _num_frames(self, slot: int) -> int:
        return self._header(slot).num_frames

    def _header(self, slot: int) -> SegmentHeader:
        header = self._table.headers[slot]
        assert header is not None, "slot without a segment"
        return header
