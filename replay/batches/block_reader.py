"""Reads observations from Redis by byte ranges: only the blocks they need, all shards asked at once."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexpert.errors import ApexpertError
from replay.batches.block_plan import BlockPlan, plan_blocks
from replay.errors import ShardUnavailable
from replay.items.table import ItemTable
from replay.log.cursor import LogCursor
from replay.segments.blocks import START, STOP, decompress_scattered
from replay.shards.pipeline import Request, pack


class SegmentsGone(ApexpertError):
    """Some segments cannot be read: the slots of those that are missing and of those that are damaged, and
    the shards that do not answer.
    """

    def __init__(
        self, missing: Iterable[int], corrupt: Iterable[int], silent: dict[int, ShardUnavailable]
    ) -> None:
        self.missing, self.corrupt, self.silent = sorted(missing), sorted(corrupt), silent
        counts = f"{len(self.missing)} segments are missing and {len(self.corrupt)} damaged"
        super().__init__(f"{counts}; {len(silent)} shards do not answer")


class _Reading(NamedTuple):
    """What to read: R byte ranges of segments with M blocks in them."""

    slot: NDArray[np.int64]
    """(R,) slots of the ranges' segments."""
    start: NDArray[np.int64]
    """(R,)"""
    stop: NDArray[np.int64]
    """(R,)"""
    first: NDArray[np.int64]
    """(R + 1,) range r has the blocks [first[r], first[r + 1])."""
    blocks: NDArray[np.int64]
    """(M, 4), as in `block_codec`, counted from their range's first byte."""


class BlockReader:
    """Fills in observations from Redis. Each block is decompressed and copied to where its frames go while it
    is still in the processor's cache; one shard's blocks by a thread of their own while the next one answers.
    """

    def __init__(self, table: ItemTable, cursors: Sequence[LogCursor], stack: int) -> None:
        self._table = table
        self._cursors = cursors
        self._stack = stack
        self._threads = ThreadPoolExecutor(thread_name_prefix="blocks")

    def fill(
        self,
        out: NDArray[np.uint8],
        places: NDArray[np.int64],
        slots: NDArray[np.int64],
        newest: NDArray[np.int64],
    ) -> None:
        """Write P observations, each of its segment's slot and newest frame there, to `out[places]`.

        `out` is contiguous, (N, stack, H, W). Raises SegmentsGone; then some may have been written.
        """
        unique, segment = np.unique(slots, return_inverse=True)
        plan = plan_blocks(segment, newest, self._stack)
        reading = self._locate(plan, unique)
        requests = self._ask(reading)
        rows = (places[:, None] * self._stack + np.arange(self._stack)).reshape(-1)
        out.reshape(-1, *out.shape[2:])[rows[plan.zeros]] = 0
        pieces = np.stack([plan.source, rows[plan.target], plan.length], axis=1) * out[0, 0].nbytes

        def copy(own: NDArray[np.int64], answers: list[bytes]) -> NDArray[np.int64]:
            """Copies what is in the answers to some ranges; gives those that are damaged."""
            blocks = (reading.first, reading.blocks, plan.pieces, pieces)
            return own[decompress_scattered(answers, own, *blocks, out.reshape(-1))]

        missing: list[int] = []
        silent: dict[int, ShardUnavailable] = {}
        copying: list[Future[NDArray[np.int64]]] = []
        for shard, (own, request) in requests.items():
            try:
                answers = self._answer(shard, request)
            except ShardUnavailable as error:
                silent[shard] = error
                continue
            there = np.array([bool(answer) for answer in answers])
            missing += own[~there].tolist()
            copying.append(self._threads.submit(copy, own[there], list(filter(None, answers))))
        corrupt = [run for copied in copying for run in copied.result().tolist()]
        if missing or corrupt or silent:
            raise SegmentsGone(_slots(reading, missing), _slots(reading, corrupt), silent)

    def _locate(self, plan: BlockPlan, slots: NDArray[np.int64]) -> _Reading:
        """Where the plan's blocks lie in their encoded segments, which are in these slots."""
        tables = [self._table.blocks[slot] for slot in slots.tolist()]
        first = np.cumsum([0, *map(len, tables)])
        blocks = np.concatenate(tables)[first[plan.segment] + plan.block]
        head = np.flatnonzero(np.diff(plan.run, prepend=-1))
        ends = np.append(head, len(blocks))
        start, stop = blocks[head, START], blocks[ends[1:] - 1, STOP]
        blocks[:, START : STOP + 1] -= start[plan.run, None]
        return _Reading(slots[plan.segment[head]], start, stop, ends, blocks)

    def _ask(self, reading: _Reading) -> dict[int, tuple[NDArray[np.int64], Request]]:
        """Ask every shard for its ranges; by shard, their numbers and what it was asked."""
        shards = self._table.slots["shard"][reading.slot]
        identities = self._table.identities(reading.slot)
        firsts, lasts = reading.start.tolist(), (reading.stop - 1).tolist()
        asked = {}
        for shard in np.unique(shards).tolist():
            own = np.flatnonzero(shards == shard)
            pipeline, key = self._cursors[shard].pipeline, self._cursors[shard].shard.segment_key
            request = pack(*[("GETRANGE", key(identities[i]), firsts[i], lasts[i]) for i in own.tolist()])
            pipeline.ask(request)
            asked[shard] = own, request
        return asked

    def _answer(self, shard: int, request: Request) -> list[bytes]:
        """Bytes of one shard's ranges, b"" for those that are gone, or of which something else is kept."""
        cursor = self._cursors[shard]
        answers = cursor.pipeline.answer(request)
        for answer in answers:
            if not isinstance(answer, bytes) and not str(answer).startswith("WRONGTYPE"):
                raise cursor.shard.refusal(answer)
        return [answer if isinstance(answer, bytes) else b"" for answer in answers]


def _slots(reading: _Reading, ranges: list[int]) -> list[int]:
    """The slots of some ranges, each once."""
    return sorted(set(reading.slot[ranges].tolist()))
