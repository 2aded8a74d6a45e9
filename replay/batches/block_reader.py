"""Read observations from Redis by byte ranges: only the blocks needed, with all shards asked at once."""

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
from replay.shards.pipeline import Request, is_wrong_type, pack


class SegmentsGone(ApexpertError):
    """Some segments cannot be read.

    `missing` and `corrupt` hold the slots of segments that are gone and of segments that are
    damaged, `silent` the shards that do not answer.
    """

    def __init__(
        self, missing: Iterable[int], corrupt: Iterable[int], silent: dict[int, ShardUnavailable]
    ) -> None:
        self.missing, self.corrupt, self.silent = sorted(missing), sorted(corrupt), silent
        counts = f"{len(self.missing)} segments are missing and {len(self.corrupt)} damaged"
        super().__init__(f"{counts}; {len(silent)} shards do not answer")


class _Reading(NamedTuple):
    """Bytes to read: R byte ranges of segments, which contain M blocks."""

    slot: NDArray[np.int64]
    """(R,) slot of each range's segment."""
    start: NDArray[np.int64]
    """(R,)"""
    stop: NDArray[np.int64]
    """(R,)"""
    first: NDArray[np.int64]
    """(R + 1,) range r contains the blocks [first[r], first[r + 1])."""
    blocks: NDArray[np.int64]
    """(M, 4), columns as in `replay/segments/blocks.py`, counted from the first byte of the block's range."""


class BlockReader:
    """Fills in observations from Redis.

    Each block is decompressed and its frames copied while it is still in the processor's cache. A
    separate thread does this for one shard's blocks while the next shard answers.
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
        """Write P observations to `out[places]`, each given by its segment's slot and its newest frame there.

        `out` is contiguous, (N, stack, *shape). Raises SegmentsGone; some observations may then be
        written.
        """
        unique, segment = np.unique(slots, return_inverse=True)
        plan = plan_blocks(segment, newest, self._stack)
        reading = self._locate(plan, unique)
        # Asked first: the shards answer while zeros and pieces are prepared.
        requests = self._ask(reading)
        rows = (places[:, None] * self._stack + np.arange(self._stack)).reshape(-1)
        out.reshape(-1, *out.shape[2:])[rows[plan.zeros]] = 0
        # (Q, 3) in bytes: first byte in the block, first byte in `out`, length.
        pieces = np.stack([plan.source, rows[plan.target], plan.length], axis=1) * out[0, 0].nbytes

        def copy(own: NDArray[np.int64], answers: list[bytes]) -> NDArray[np.int64]:
            """Copy the pieces in the answers to the ranges `own`; return the ranges that are damaged."""
            blocks = (reading.first, reading.blocks, plan.pieces, pieces)
            return own[decompress_scattered(answers, own, *blocks, out.reshape(-1))]

        missing: list[int] = []
        silent: dict[int, ShardUnavailable] = {}
        copying: list[Future[NDArray[np.int64]]] = []
        # Read the next shard's answers while threads decompress, which releases the GIL.
        for shard, (own, request) in requests.items():
            try:
                answers = self._answer(shard, request)
            except ShardUnavailable as error:
                silent[shard] = error
                continue
            there = np.array([bool(answer) for answer in answers])
            missing += own[~there].tolist()
            copying.append(self._threads.submit(copy, own[there], list(filter(None, answers))))
        # Wait for all threads: none may write to `out` after this call.
        corrupt = [run for copied in copying for run in copied.result().tolist()]
        if missing or corrupt or silent:
            raise SegmentsGone(_slots(reading, missing), _slots(reading, corrupt), silent)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _locate(self, plan: BlockPlan, slots: NDArray[np.int64]) -> _Reading:
        """Return where the plan's blocks lie in their encoded segments, which are in these slots."""
        tables = [self._table.blocks[slot] for slot in slots.tolist()]
        first = np.cumsum([0, *map(len, tables)])
        # A copy, because it is indexed by an array: the table's own blocks stay as they are.
        blocks = np.concatenate(tables)[first[plan.segment] + plan.block]
        head = np.flatnonzero(np.diff(plan.run, prepend=-1))
        ends = np.append(head, len(blocks))
        start, stop = blocks[head, START], blocks[ends[1:] - 1, STOP]
        # Block positions count from the segment's first byte in the table; an answer begins with its range.
        blocks[:, START : STOP + 1] -= start[plan.run, None]
        return _Reading(slots[plan.segment[head]], start, stop, ends, blocks)

    def _ask(self, reading: _Reading) -> dict[int, tuple[NDArray[np.int64], Request]]:
        """Ask every shard for its ranges; return, by shard, the ranges' numbers and the request."""
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

    def _answer(self, shard_index: int, request: Request) -> list[bytes]:
        """Return the bytes of one shard's ranges, b"" if the segment is gone or its key holds no bytes."""
        cursor = self._cursors[shard_index]
        answers = cursor.pipeline.answer(request)
        for answer in answers:
            if not isinstance(answer, bytes) and not is_wrong_type(answer):
                raise cursor.shard.refusal(answer)
        return [answer if isinstance(answer, bytes) else b"" for answer in answers]


def _slots(reading: _Reading, ranges: list[int]) -> list[int]:
    """Return the slots of some ranges, each once."""
    return sorted(set(reading.slot[ranges].tolist()))
