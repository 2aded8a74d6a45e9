"""Reads observations from Redis by byte ranges: only the blocks they need, all shards asked at once."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.block_plan import BlockPlan, plan_blocks
from replay.errors import CorruptSegment, ShardUnavailable
from replay.items import ItemTable
from replay.segment import BLOCK_FRAMES, SegmentHeader, decompress_block
from replay.shard_link import Request
from replay.shard_tail import ShardTail


class SegmentsGone(Exception):
    """Some segments cannot be read: the slots of those that are missing and of those that are damaged, and
    the shards that do not answer.
    """

    def __init__(
        self, missing: Iterable[int], corrupt: Iterable[int], silent: dict[int, ShardUnavailable]
    ) -> None:
        self.missing, self.corrupt, self.silent = sorted(missing), sorted(corrupt), silent
        counts = f"{len(self.missing)} segments are missing and {len(self.corrupt)} damaged"
        super().__init__(f"{counts}; {len(silent)} shards do not answer")


class _Blocks(NamedTuple):
    """What is known of the M blocks of a plan, as plain lists."""

    first: list[int]
    """(R + 1): run r has the blocks [first[r], first[r + 1])."""
    start: list[int]
    """First byte within the run's range."""
    stop: list[int]
    num_bytes: list[int]
    """Decompressed."""
    crc: list[int]
    pieces: list[int]
    """(M + 1)"""


class _Runs(NamedTuple):
    """Byte ranges [start, stop) of encoded segments."""

    slot: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]


class BlockReader:
    """Fills in observations from Redis. Each block is decompressed and copied to where its frames go while it
    is still in the processor's cache.
    """

    def __init__(self, table: ItemTable, tails: Sequence[ShardTail], stack: int) -> None:
        self._table = table
        self._tails = tails
        self._stack = stack

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
        runs, blocks = self._locate(plan, unique, out[0, 0].nbytes)
        requests = self._ask(runs)
        rows = (places[:, None] * self._stack + np.arange(self._stack)).reshape(-1)
        out.reshape(-1, *out.shape[2:])[rows[plan.zeros]] = 0
        pieces = _pieces(plan, rows, out[0, 0].nbytes)
        missing: set[int] = set()
        corrupt: set[int] = set()
        silent: dict[int, ShardUnavailable] = {}
        for shard, (own, request) in requests.items():
            try:
                answers = dict(zip(own, self._answer(shard, request), strict=True))
            except ShardUnavailable as error:
                silent[shard] = error
                continue
            # While this shard's blocks are decompressed, the next one's arrive.
            gone = {run for run, data in answers.items() if not data}
            missing |= gone
            corrupt |= _copy(out, blocks, pieces, answers) - gone
        if missing or corrupt or silent:
            raise SegmentsGone(_slots(runs, missing), _slots(runs, corrupt), silent)

    def _locate(self, plan: BlockPlan, slots: NDArray[np.int64], frame_bytes: int) -> tuple[_Runs, _Blocks]:
        """Where the plan's blocks lie in their encoded segments, which are in these slots."""
        headers = [self._header(slot) for slot in slots.tolist()]
        first = np.cumsum([0, *(header.num_blocks for header in headers)])
        flat = first[plan.segment] + plan.block
        start = np.concatenate([header.block_offsets[:-1] for header in headers])[flat]
        stop = np.concatenate([header.block_offsets[1:] for header in headers])[flat]
        frames = np.array([header.num_frames for header in headers])[plan.segment]
        num_bytes = np.minimum(BLOCK_FRAMES, frames - plan.block * BLOCK_FRAMES) * frame_bytes
        head = np.flatnonzero(np.diff(plan.run, prepend=-1))
        tail = np.append(head[1:], len(plan.run)) - 1
        runs = _Runs(slots[plan.segment[head]], start[head], stop[tail])
        offset = runs.start[plan.run]
        crcs = np.concatenate([header.block_crcs for header in headers])[flat]
        columns = (np.append(head, len(flat)), start - offset, stop - offset, num_bytes, crcs, plan.pieces)
        return runs, _Blocks(*(column.tolist() for column in columns))

    def _ask(self, runs: _Runs) -> dict[int, tuple[list[int], Request]]:
        """Ask every shard for its runs; by shard, their numbers and what it was asked."""
        shards = self._table.slots["shard"][runs.slot]
        identities = [self._table.identity(slot) for slot in runs.slot.tolist()]
        firsts, lasts = runs.start.tolist(), (runs.stop - 1).tolist()
        asked = {}
        for shard in np.unique(shards).tolist():
            own = np.flatnonzero(shards == shard).tolist()
            link, key = self._tails[shard].link, self._tails[shard].shard.segment_key
            request = link.pack(*[("GETRANGE", key(identities[i]), firsts[i], lasts[i]) for i in own])
            link.ask(request)
            asked[shard] = own, request
        return asked

    def _answer(self, shard: int, request: Request) -> list[bytes]:
        """Bytes of one shard's runs, b"" for those that are gone, or of which something else is kept."""
        tail = self._tails[shard]
        answers = tail.link.answer(request)
        for answer in answers:
            if not isinstance(answer, bytes) and not str(answer).startswith("WRONGTYPE"):
                raise tail.shard.refusal(answer)
        return [answer if isinstance(answer, bytes) else b"" for answer in answers]

    def _header(self, slot: int) -> SegmentHeader:
        header = self._table.headers[slot]
        assert header is not None, "slot without a segment"
        return header


def _pieces(plan: BlockPlan, rows: NDArray[np.int64], frame_bytes: int) -> list[tuple[int, int, int]]:
    """Of each piece: first byte within its block, first byte of where it goes, and number of bytes."""
    columns = (plan.source * frame_bytes, rows[plan.target] * frame_bytes, plan.length * frame_bytes)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _copy(
    out: NDArray[np.uint8], blocks: _Blocks, pieces: list[tuple[int, int, int]], answers: dict[int, bytes]
) -> set[int]:
    """Decompress the blocks of the runs answered and copy their pieces; gives the runs that are damaged."""
    pixels = memoryview(out.reshape(-1))  # type: ignore[arg-type]
    bad = set()
    for run, data in answers.items():
        view = memoryview(data)
        for block in range(blocks.first[run], blocks.first[run + 1]):
            start, stop = blocks.start[block], blocks.stop[block]
            try:
                frames = memoryview(
                    decompress_block(
                        view[start:stop], stop - start, blocks.num_bytes[block], blocks.crc[block]
                    )
                )
            except CorruptSegment:
                bad.add(run)
                break
            for source, target, size in pieces[blocks.pieces[block] : blocks.pieces[block + 1]]:
                pixels[target : target + size] = frames[source : source + size]
    return bad


def _slots(runs: _Runs, numbers: set[int]) -> list[int]:
    """The slots of some runs, each once."""
    return sorted(set(runs.slot[list(numbers)].tolist()))
