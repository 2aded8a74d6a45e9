import struct
import tracemalloc
import zlib
from dataclasses import replace
from typing import Any

import lz4.block
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import CorruptSegment
from replay.segments.codec import decode, decode_header, encode
from replay.types import Segment
from tests.helpers.replay.segments import cuts_start, forged, make_segment, sealed
from tests.helpers.replay.streams import signature


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
    "frames of no planes": {"frame_shape": [0, 3, 2]},
    "frames of more planes": {"frame_shape": [2, 3, 2]},
    "frames of four sides": {"frame_shape": [1, 1, 3, 2]},
    "frames of immense planes": {"frame_shape": [4096, 4096, 4096]},
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
    front = encoded[: cuts_start(decode_header(encoded))]
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


def test_more_frames_than_any_segment_has_are_refused_even_where_blocks_are_large() -> None:
    encoded = encode(make_segment(), "run", signature())
    claims = {"frame_shape": [4096, 4096], "num_items": 65, "num_steps": 65}
    claims |= {"block_sizes": [2**23] * 9, "block_crcs": [0] * 9}
    with pytest.raises(CorruptSegment, match="frames would take more than"):
        decode_header(forged(encoded, lambda header: header.update(claims)))
