import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import CorruptSegment, ForeignSegment, SegmentError
from replay.segments.blocks import NUM_BYTES, decompress_scattered
from replay.segments.codec import decode, decode_header, encode, signature_mismatch
from replay.types import Segment
from tests.helpers.replay.segments import block_frames, cuts, cuts_start, make_segment, of_version
from tests.helpers.replay.streams import signature

ARRAYS = ("frames", "actions", "rewards", "terminated", "truncated", "life_lost", "priorities")


def assert_equal(one: Segment, other: Segment) -> None:
    for name, value in vars(one).items():
        found = getattr(other, name)
        if name in ARRAYS and value is not None:
            assert found.dtype == value.dtype
            np.testing.assert_array_equal(found, value)
        else:
            assert found == value


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


@pytest.mark.parametrize("frame_shape", [(4, 10, 10), (1, 3, 2), (7, 2, 5)])
def test_frames_of_several_planes_come_back(frame_shape: tuple[int, ...]) -> None:
    data = signature(stack=2, frame_shape=frame_shape)
    segment = make_segment(items=20, extra=2, data=data)
    encoded = encode(segment, "run", data)
    header = decode_header(encoded)
    assert header.signature == data
    assert header.blocks[0, NUM_BYTES] == 8 * math.prod(frame_shape)
    assert_equal(segment, decode(encoded, run="run", signature=data))
    flat = signature(stack=2, frame_shape=(frame_shape[0] * frame_shape[1], frame_shape[2]))
    with pytest.raises(ForeignSegment, match="the data has frames of"):
        decode(encoded, run="run", signature=flat)


def test_header_and_blocks_in_parts() -> None:
    data = signature()
    segment = make_segment(items=20, extra=2)
    encoded = encode(segment, "run", data)
    header = decode_header(encoded)
    front = cuts_start(header)
    assert decode_header(encoded[:front]).identity == segment.identity
    assert (header.run, header.signature, header.num_bytes) == ("run", data, len(encoded))
    assert header.num_frames == 26
    assert header.blocks[:, NUM_BYTES].tolist() == [6 * frames for frames in (8, 8, 8, 2)]
    np.testing.assert_array_equal(header.rewards, segment.rewards)
    for block, (start, stop) in enumerate(cuts(header)):
        frames = block_frames(header, block, encoded[start:stop])
        np.testing.assert_array_equal(frames, segment.frames[8 * block : 8 * block + 8])


def test_a_damaged_or_exchanged_block_is_refused() -> None:
    encoded = encode(make_segment(items=20), "run", signature())
    header = decode_header(encoded)
    blocks = [encoded[start:stop] for start, stop in cuts(header)]
    for wrong in (blocks[0], blocks[1][:-1], b"", bytes([blocks[1][0] ^ 1]) + blocks[1][1:]):
        with pytest.raises(CorruptSegment):
            block_frames(header, 1, wrong)
        with pytest.raises(CorruptSegment, match=r"segment 3\.1\.12"):
            decode(encoded.replace(blocks[1], wrong), run="run", signature=signature())


@pytest.mark.parametrize(
    ("piece", "fits"),
    [((0, 0, 48), True), ((6, 40, 8), True), ((6, 0, 48), False), ((0, 1, 48), False), ((-1, 0, 4), False)],
)
def test_nothing_is_read_or_written_past_the_ends(piece: tuple[int, int, int], fits: bool) -> None:
    encoded = encode(make_segment(items=20), "run", signature())
    block = decode_header(encoded).blocks[:1]
    whole = np.zeros(200, np.uint8)
    one, two = np.arange(1), np.arange(2)
    damaged = decompress_scattered([encoded], one, two, block, two, np.array([piece]), whole[:48])
    assert damaged.tolist() == [not fits]
    assert not whole[48:].any()
    assert whole[:48].any() == fits


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
        decode(of_version(2, encoded), run="pong", signature=None)
    with pytest.raises(CorruptSegment, match="checksum"):  # not another version: damage
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
