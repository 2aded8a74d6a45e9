import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lz4.block
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import CorruptSegment, ForeignSegment, SegmentError
from replay.segment import decode, decode_blocks, decode_header, encode, signature_mismatch
from replay.segment_header import CHECKED_PREFIX_BYTES, PREFIX
from replay.types import Segment, SegmentIdentity, Signature
from tests.helpers.streams import signature

ARRAYS = ("frames", "actions", "rewards", "terminated", "truncated", "life_lost", "priorities")


def make_segment(
    seed: int = 0,
    *,
    items: int = 3,
    extra: int = 0,
    data: Signature | None = None,
    first_step: int = 7,
    priorities: bool = True,
) -> Segment:
    data = data or signature()
    rng = np.random.default_rng(seed)
    steps, lead = items + extra, min(data.stack - 1, first_step)
    last = np.arange(steps) == steps - 1
    return Segment(
        identity=SegmentIdentity(3, 1, 12),
        env_slot=5,
        first_step=first_step,
        num_items=items,
        lead=lead,
        frames=rng.integers(0, 256, (lead + steps + 1, *data.frame_shape), dtype=np.uint8),
        actions=rng.integers(0, data.num_actions, steps, dtype=np.int32),
        rewards=rng.normal(size=steps).astype(np.float32),
        terminated=last & bool(seed % 2) & (extra == 0),
        truncated=last & bool(seed % 3) & (extra == 0),
        life_lost=rng.random(steps) < 0.5,
        priorities=rng.random(items).astype(np.float32) if priorities else None,
        weights_version=2**40,
    )


def assert_equal(one: Segment, other: Segment) -> None:
    for name, value in vars(one).items():
        found = getattr(other, name)
        if name in ARRAYS and value is not None:
            assert found.dtype == value.dtype
            np.testing.assert_array_equal(found, value)
        else:
            assert found == value


def forged(data: bytes, change: Callable[[dict[str, Any]], object], columns: bytes | None = None) -> bytes:
    """The segment with another header (and columns), and right checksums: a forgery, not damage."""
    magic, version, header_bytes, columns_bytes, _ = PREFIX.unpack_from(data)
    middle = PREFIX.size + header_bytes
    fields = msgpack.unpackb(data[PREFIX.size : middle])
    change(fields)
    kept = data[middle : middle + columns_bytes] if columns is None else columns
    return sealed(magic, version, msgpack.packb(fields), kept) + data[middle + columns_bytes :]


def sealed(magic: bytes, version: int, header: bytes, columns: bytes) -> bytes:
    front = PREFIX.pack(magic, version, len(header), len(columns), 0)[:CHECKED_PREFIX_BYTES]
    return front + struct.pack("<I", zlib.crc32(front + header + columns)) + header + columns


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    items=st.integers(1, 40),
    extra=st.integers(0, 2),
    stack=st.integers(1, 5),
    first_step=st.integers(0, 6),
    priorities=st.booleans(),
)
def test_round_trip(seed: int, items: int, extra: int, stack: int, first_step: int, priorities: bool) -> None:
    data = signature(stack=stack)
    segment = make_segment(
        seed, items=items, extra=extra, data=data, first_step=first_step, priorities=priorities
    )
    encoded = encode(segment, "run", data)
    assert_equal(segment, decode(encoded, run="run", signature=data))
    assert_equal(segment, decode(encoded, run=None, signature=None))


def test_header_and_blocks_in_parts() -> None:
    data = signature()
    segment = make_segment(items=20, extra=2)
    encoded = encode(segment, "run", data)
    header = decode_header(encoded)
    front = int(header.block_offsets[0])
    assert decode_header(encoded[:front]).identity == segment.identity
    assert (header.run, header.signature, header.num_bytes) == ("run", data, len(encoded))
    assert (header.num_frames, header.num_blocks) == (26, 4)
    assert [header.frames_in_block(block) for block in range(4)] == [8, 8, 8, 2]
    np.testing.assert_array_equal(header.rewards, segment.rewards)
    ranges = {block: header.block_range(block) for block in (1, 3)}
    blocks = decode_blocks(header, {block: encoded[a:b] for block, (a, b) in ranges.items()})
    np.testing.assert_array_equal(blocks[1], segment.frames[8:16])
    np.testing.assert_array_equal(blocks[3], segment.frames[24:26])


def test_a_damaged_or_exchanged_block_is_refused() -> None:
    encoded = encode(make_segment(items=20), "run", signature())
    header = decode_header(encoded)
    blocks = [encoded[slice(*header.block_range(block))] for block in range(header.num_blocks)]
    for wrong in (
        blocks[0],
        blocks[1][:-1],
        blocks[1] + b"0",
        b"",
        bytes([blocks[1][0] ^ 1]) + blocks[1][1:],
    ):
        with pytest.raises(CorruptSegment, match=r"block 1 of segment 3\.1\.12"):
            decode_blocks(header, {1: wrong})


def test_every_flipped_bit_is_caught() -> None:
    encoded = bytearray(encode(make_segment(), "run", signature()))
    missed = []
    for bit in range(8 * len(encoded)):
        encoded[bit // 8] ^= 1 << bit % 8
        try:
            decode(bytes(encoded), run="run", signature=signature())
            missed.append(bit)
        except SegmentError:
            pass
        encoded[bit // 8] ^= 1 << bit % 8
    assert missed == []
    decode(bytes(encoded), run="run", signature=signature())


def test_every_truncation_and_anything_appended_is_caught() -> None:
    encoded = encode(make_segment(), "run", signature())
    for wrong in [encoded[:length] for length in range(len(encoded))] + [encoded + b"\0", encoded + encoded]:
        with pytest.raises(CorruptSegment):
            decode(wrong, run=None, signature=None)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_refused(noise: bytes, signed: bool) -> None:
    data = sealed(b"APXS", 1, noise, noise[:20]) if signed else noise
    with pytest.raises(CorruptSegment):
        decode(data, run=None, signature=None)


HOSTILE: dict[str, Any] = {
    "items none": {"num_items": 0},
    "items more than steps": {"num_items": 4},
    "steps without end": {"num_steps": 2**62, "num_items": 2**62},
    "steps too many": {"num_steps": 6},
    "negative": {"seq": -1},
    "beyond 64 bits": {"weights_version": 2**64 - 1},
    "a float": {"env_slot": 1.0},
    "a truth": {"actor": True},
    "lead too small": {"lead": 2},
    "frames of other size": {"frame_shape": [3, 3]},
    "frames immense": {"frame_shape": [4096, 4096]},
    "frames beyond": {"frame_shape": [2**31, 2**31]},
    "frames of nothing": {"frame_shape": [0, 2]},
    "frames flat": {"frame_shape": [6]},
    "stack none": {"stack": 0},
    "n_step none": {"n_step": 0},
    "actions too few": {"num_actions": 1},
    "codec": {"codec": "zip"},
    "block frames": {"block_frames": 16},
    "priorities left out": {"has_priorities": False},
    "priorities odd": {"has_priorities": 1},
    "blocks too few": {"block_sizes": [], "block_crcs": []},
    "block immense": {"block_sizes": [2**62]},
    "block negative": {"block_sizes": [-1]},
    "block of nothing": {"block_sizes": [0]},
    "crc too wide": {"block_crcs": [2**32]},
    "run not text": {"run": 7},
    "a field more": {"extra": 1},
}


@pytest.mark.parametrize("fields", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_headers_with_right_checksums_are_refused(fields: dict[str, Any]) -> None:
    encoded = encode(make_segment(), "run", signature())
    decode(forged(encoded, lambda header: None), run="run", signature=None)
    with pytest.raises(CorruptSegment):
        decode(forged(encoded, lambda header: header.update(fields)), run=None, signature=None)


def test_a_header_that_lacks_a_field_or_is_no_map_is_refused() -> None:
    encoded = encode(make_segment(), "run", signature())
    with pytest.raises(CorruptSegment, match="lacks fields"):
        decode(forged(encoded, lambda header: header.pop("run")), run=None, signature=None)
    for header in (msgpack.packb([1, 2]), b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xc1"):
        with pytest.raises(CorruptSegment):
            decode(sealed(b"APXS", 1, header, b""), run=None, signature=None)


def column_bytes(segment: Segment) -> bytes:
    flags = (segment.terminated, segment.truncated, segment.life_lost)
    assert segment.priorities is not None
    parts = (segment.rewards, segment.actions, segment.priorities, *flags)
    return b"".join(part.tobytes() for part in parts)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rewards", np.array([0, np.nan, 0], np.float32)),
        ("rewards", np.array([0, np.inf, 0], np.float32)),
        ("actions", np.array([0, 4, 0], np.int32)),
        ("actions", np.array([0, -1, 0], np.int32)),
        ("terminated", np.array([1, 0, 0], np.uint8)),
        ("truncated", np.array([0, 1, 0], np.uint8)),
        ("life_lost", np.array([2, 0, 0], np.uint8)),
    ],
)
def test_hostile_columns_are_refused(name: str, value: Any) -> None:
    segment = make_segment()
    encoded = encode(segment, "run", signature())
    same = forged(encoded, lambda header: None, column_bytes(segment))
    assert same == encoded
    wrong = forged(encoded, lambda header: None, column_bytes(replace(segment, **{name: value})))
    with pytest.raises(CorruptSegment):
        decode(wrong, run=None, signature=None)


def with_block(encoded: bytes, block: bytes) -> bytes:
    """The one block of a segment exchanged, with right size and checksum."""
    front = encoded[: decode_header(encoded).block_offsets[0]]
    change = {"block_sizes": [len(block)], "block_crcs": [zlib.crc32(block)]}
    return forged(front, lambda header: header.update(change)) + block


def test_hostile_blocks_with_right_checksums_are_refused() -> None:
    encoded = encode(make_segment(), "run", signature())  # 7 frames of 6 bytes
    for pixels in (41, 43, 10_000):
        block = lz4.block.compress(bytes(pixels), store_size=False)
        with pytest.raises(CorruptSegment, match="block 0"):
            decode(with_block(encoded, block), run=None, signature=None)
    for block in (b"\xff" * 30, b"\x00" * 30, b"\x10\x00\xff\xff"):
        with pytest.raises(CorruptSegment, match="block 0"):
            decode(with_block(encoded, block), run=None, signature=None)


def test_hostile_sizes_do_not_take_memory() -> None:
    encoded = encode(make_segment(), "run", signature())
    wrong = [
        {"frame_shape": [4096, 4096]},
        {"num_items": 2**16, "num_steps": 2**16},
        {"block_sizes": [2**30]},
    ]
    forgeries = [forged(encoded, lambda header, f=f: header.update(f)) for f in wrong]  # type: ignore[misc]
    forgeries.append(b"APXS" + struct.pack("<IIII", 1, 2**32 - 1, 2**32 - 1, 0))
    tracemalloc.start()
    try:
        for data in forgeries:
            with pytest.raises(CorruptSegment):
                decode(data, run=None, signature=None)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_foreign_segments_are_told_in_a_sentence() -> None:
    encoded = encode(make_segment(), "pong", signature(stack=4, n_step=3))
    with pytest.raises(ForeignSegment, match=r"segment 3\.1\.12 is of run 'pong', not of 'breakout'"):
        decode(encoded, run="breakout", signature=None)
    with pytest.raises(ForeignSegment, match="has stack 4, 5 is asked for: it can be lowered, never raised"):
        decode(encoded, run="pong", signature=signature(stack=5))
    with pytest.raises(ForeignSegment, match="has n_step 3, 4 is asked for"):
        decode(encoded, run="pong", signature=signature(n_step=4))
    with pytest.raises(ForeignSegment, match=r"frames of \(3, 2\), \(84, 84\) are asked for"):
        decode(encoded, run="pong", signature=signature(frame_shape=(84, 84)))
    with pytest.raises(ForeignSegment, match="has 4 actions, 6 are asked for"):
        decode(encoded, run="pong", signature=replace(signature(), num_actions=6))
    with pytest.raises(ForeignSegment, match="format version 2; this program reads version 1"):
        decode(encoded[:4] + b"\x02" + encoded[5:], run="pong", signature=None)
    decode(encoded, run="pong", signature=signature(stack=1, n_step=1))
    assert signature_mismatch(signature(), signature()) is None


@pytest.mark.parametrize(
    "change",
    [
        {"lead": 2},
        {"num_items": 1, "priorities": None, "rewards": np.zeros(2, np.float32)},
        {"num_items": 0, "priorities": None},
        {"num_items": 4, "priorities": None},
        {"priorities": np.zeros(2, np.float32)},
        {"frames": np.zeros((7, 2, 3), np.uint8)},
        {"frames": np.zeros((7, 3, 2), np.float32)},
        {"rewards": np.array([0, 0, np.nan], np.float32)},
        {"actions": np.array([0, 0, 4], np.int32)},
        {"terminated": np.array([True, False, False])},
    ],
)
def test_encode_refuses_what_decode_would(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        encode(replace(make_segment(), **change), "run", signature())


def test_columns_do_not_keep_the_frames_alive() -> None:
    encoded = encode(make_segment(items=30), "run", signature())
    base = decode_header(encoded).rewards.base
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, bytes)
    assert len(base) < 30 * 20


def test_a_segment_of_70_frames_is_coded_within_microseconds_a_frame() -> None:
    data = Signature((84, 84), 4, 3, 18)
    segment = make_segment(items=64, extra=2, data=data)
    still = np.repeat(np.repeat(np.arange(144, dtype=np.uint8).reshape(12, 12), 7, 0), 7, 1)
    segment = replace(segment, frames=np.repeat(still[None], 70, 0))
    best_encode = best_decode = float("inf")
    for _ in range(30):
        began = time.perf_counter()
        encoded = encode(segment, "run", data)
        between = time.perf_counter()
        decode(encoded, run="run", signature=data)
        best_decode = min(best_decode, (time.perf_counter() - between) / 70)
        best_encode = min(best_encode, (between - began) / 70)
    # About 1.5 us each here; the bound only catches a change of algorithm, not a busy machine.
    assert best_encode < 15e-6
    assert best_decode < 10e-6
