"""Checks of blocks that are read by byte ranges, whatever the bytes; for hypothesis and for atheris.

Both give bytes, and `Choices` makes a case of them: so an input that one of them finds is one for the other.
"""

import zlib
from typing import Any, NamedTuple

import lz4.block
import numpy as np

from replay.batches.block_reader import SegmentsGone
from replay.segments.blocks import decompress_scattered
from replay.segments.codec import encode
from replay.types import Segment
from tests.helpers.replay.samplers import Run, new_run
from tests.helpers.replay.streams import random_stream
from tests.helpers.shards.servers import shared_urls

GUARD, GUARDED = 64, 0xA5
OUT_BYTES = 96
EXTREMES = (-1, 0, 1, OUT_BYTES, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63))


class Choices:
    """Numbers and bytes out of bytes; zeros when these have run out."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self, below: int) -> int:
        """From 0 on."""
        self._at += 2
        return int.from_bytes(self._data[self._at - 2 : self._at], "little") % below

    def some(self, most: int) -> bytes:
        """Up to `most` bytes."""
        size = self.number(most + 1)
        self._at += size
        return self._data[self._at - size : self._at]

    def whole(self, most: int) -> int:
        """Mostly up to `most`, now and then far out."""
        return EXTREMES[self.number(len(EXTREMES))] if self.number(8) == 0 else self.number(most + 1)


class _Block(NamedTuple):
    start: int
    stop: int
    num_bytes: int
    crc: int
    pieces: list[tuple[int, int, int]]
    """Of each: first byte in the block, first byte in the result, bytes."""


def check_scattered(data: bytes) -> None:
    """Runs of blocks of any kind: nothing is written but the pieces, and these are what lz4 itself makes."""
    choices = Choices(data)
    runs = [_a_run(choices) for _ in range(1 + choices.number(3))]
    room = np.full(OUT_BYTES + 2 * GUARD, GUARDED, np.uint8)
    damaged = _decompress(runs, room[GUARD:-GUARD])
    expected = _Expected()
    for (answer, blocks), is_damaged in zip(runs, damaged, strict=True):
        assert expected.take(answer, blocks) in (None, is_damaged)
    assert (room[:GUARD] == GUARDED).all()
    assert (room[-GUARD:] == GUARDED).all()
    assert (room[GUARD:-GUARD] == expected.out)[expected.sure].all()


def _a_run(choices: Choices) -> tuple[bytes, list[_Block]]:
    """An answer of a server, and the blocks that somebody expects in it; much of it fits together."""
    answer, blocks = b"", []
    for _ in range(1 + choices.number(3)):
        content = choices.some(48) or b"\0"
        part = content if choices.number(6) == 0 else lz4.block.compress(content, store_size=False)
        start, stop = len(answer), len(answer) + len(part)
        answer += part
        if choices.number(6) == 0:
            start, stop = choices.whole(len(answer)), choices.whole(len(answer))
        num_bytes = choices.number(64) if choices.number(6) == 0 else len(content)
        crc = choices.number(2**16) if choices.number(6) == 0 else zlib.crc32(part)
        size = 1 + choices.number(len(content))
        whole = (choices.number(len(content) - size + 1), choices.number(OUT_BYTES - size + 1), size)
        pieces = [whole, (choices.whole(48), choices.whole(OUT_BYTES), choices.whole(48))]
        blocks.append(_Block(start, stop, num_bytes, crc, pieces[: 1 + (choices.number(3) == 0)]))
    return answer[: choices.number(len(answer)) + 1] if choices.number(6) == 0 else answer, blocks


def _decompress(runs: list[tuple[bytes, list[_Block]]], out: np.ndarray[Any, Any]) -> list[bool]:
    blocks = [block for _, own in runs for block in own]
    damaged = decompress_scattered(
        [answer for answer, _ in runs],
        np.arange(len(runs)),
        np.cumsum([0, *(len(own) for _, own in runs)]),
        np.array([block[:4] for block in blocks]),
        np.cumsum([0, *(len(block.pieces) for block in blocks)]),
        np.array([piece for block in blocks for piece in block.pieces]),
        out,
    )
    return [bool(one) for one in damaged]


class _Expected:
    """The result by plain Python and lz4's own package.

    Under a right checksum, bytes that are no block of that size may be taken as far as they go, or not: they
    are a forgery and no damage. So what is written by them, and after them in their run, is not `sure`.
    """

    def __init__(self) -> None:
        self.out = np.full(OUT_BYTES, GUARDED, np.uint8)
        self.sure = np.ones(OUT_BYTES, np.bool_)

    def take(self, answer: bytes, blocks: list[_Block]) -> bool | None:
        """Write a run; whether it is damaged, None for a forgery."""
        for number, block in enumerate(blocks):
            inside = 0 <= block.start < block.stop <= len(answer)
            part = answer[block.start : block.stop]
            if _reaches_out(block) or not inside or zlib.crc32(part) != block.crc:
                return True
            content = _content(part, block.num_bytes)
            if content is None:
                for later in blocks[number:]:
                    for _, target, size in () if _reaches_out(later) else later.pieces:
                        self.sure[target : target + size] = False
                return None
            for source, target, size in block.pieces:
                self.out[target : target + size] = bytearray(content[source : source + size])
                self.sure[target : target + size] = True
        return False


def _content(part: bytes, num_bytes: int) -> bytes | None:
    """Decode a block's content; None where that is not so many bytes."""
    try:
        content = bytes(lz4.block.decompress(part, uncompressed_size=num_bytes))
    except lz4.block.LZ4BlockError:
        return None
    return content if len(content) == num_bytes else None


def _reaches_out(block: _Block) -> bool:
    """Whether a piece is not within its block and the result."""
    return any(
        min(piece) < 0 or piece[0] + piece[2] > block.num_bytes or piece[1] + piece[2] > OUT_BYTES
        for piece in block.pieces
    )


class StoredSegments:
    """A run on real servers, read by a sampler without a frame store; `check` damages a segment and reads."""

    def __init__(self) -> None:
        self.run: Run = new_run(shared_urls()[:2], segment_steps=20)
        self.segments: list[Segment] = self.run.record(random_stream(1, 120, end=0.04))
        for place, segment in enumerate(self.segments):
            self.run.write([segment], place % 2)
        self.sampler = self.run.sampler(store_bytes=0)
        self.sampler.rebuild()
        self._reader = self.sampler._frames._blocks

    def check(self, data: bytes) -> None:
        """Observations are those written, or refused for the one segment that was tampered with."""
        choices = Choices(data)
        victim = self.segments[choices.number(len(self.segments))]
        shard = self.run.shards[self.run.shard_of[victim.identity]]
        key, client = shard.segment_key(victim.identity), shard.client
        encoded = encode(victim, self.run.name, self.run.signature)
        wanted = [self._a_place(choices, victim) for _ in range(1 + choices.number(6))]
        client.delete(key)
        if (value := self._tampered(choices, encoded)) is None:
            client.hset(key, "a", "b")
        elif value:
            client.set(key, value)
        try:
            refused = self._refused(wanted)
            others = self._refused([place for place in wanted if place[0] is not victim])
        finally:
            client.delete(key)
            client.set(key, encoded)
        assert not others
        assert not refused or (refused == {self.sampler.table.slot_of[victim.identity]} and value != encoded)

    def close(self) -> None:
        """Delete the run's keys."""
        for shard in self.run.shards:
            shard.client.unlink(*shard.client.scan_iter(f"apexpert:{{{self.run.name}:*", count=10_000))
        self.sampler.close()

    def _a_place(self, choices: Choices, victim: Segment) -> tuple[Segment, int]:
        """A segment, the damaged one more often than not, and an observation's newest frame in it."""
        other = self.segments[choices.number(len(self.segments))]
        segment = victim if choices.number(2) == 0 else other
        return segment, choices.number(len(segment.frames))

    def _tampered(self, choices: Choices, encoded: bytes) -> bytes | None:
        """Other bytes in a segment's place, b"" for none at all, None for something that is no bytes."""
        place = choices.number(len(encoded))
        match choices.number(8):
            case 0:
                return encoded[:place]
            case 1:
                return choices.some(200)
            case 2:
                other = self.segments[choices.number(len(self.segments))]
                return encode(other, self.run.name, self.run.signature)
            case 3:
                return None
            case 4:
                return encoded[:place] + choices.some(8) + encoded[place:]
            case 5:
                part = choices.some(60)
                return encoded[:place] + part + encoded[place + len(part) :]
            case _:
                flipped = bytearray(encoded)
                flipped[place] ^= 1 << choices.number(8)
                return bytes(flipped)

    def _refused(self, wanted: list[tuple[Segment, int]]) -> set[int]:
        """Read observations, which must be those written, unless some slots' segments are refused."""
        if not wanted:
            return set()
        stack, slot_of = self.run.signature.stack, self.sampler.table.slot_of
        out = np.full((len(wanted), stack, *self.run.signature.frame_shape), GUARDED, np.uint8)
        slots = np.array([slot_of[segment.identity] for segment, _ in wanted])
        newest = np.array([frame for _, frame in wanted])
        try:
            self._reader.fill(out, np.arange(len(wanted)), slots, newest)
        except SegmentsGone as gone:
            return {*gone.missing, *gone.corrupt, *(-1 - shard for shard in gone.silent)}
        for row, (segment, frame) in zip(out, wanted, strict=True):
            padded = np.concatenate([np.zeros((stack, *row.shape[1:]), np.uint8), segment.frames])
            assert np.array_equal(row, padded[frame + 1 : frame + 1 + stack])
        return set()
