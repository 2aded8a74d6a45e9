"""Any bytes, damaged segments and forged ones: refused, or exactly what they say, within bounded memory."""

import tracemalloc
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import CorruptSegment, SegmentError
from replay.segments.codec import decode, decode_header, encode
from replay.segments.header import HEADER_FIELDS, PREFIX
from replay.shards.shard import Shard
from replay.types import Segment, SegmentIdentity
from tests.helpers.replay.fuzzing import (
    check_decoding,
    packed,
    same,
    with_blocks,
    with_fields,
    with_header_bytes,
)
from tests.helpers.replay.segments import block_frames, cuts, cuts_start, make_segment
from tests.helpers.replay.streams import signature
from tests.helpers.shards import servers

ENCODED = encode(make_segment(items=9, extra=2), "run", signature())
SEGMENT = decode(ENCODED, run="run", signature=None)
HEADER = decode_header(ENCODED)
MOST_MEMORY = 1_000_000

EXAMPLES = settings(deadline=None, max_examples=300)
PLACES = st.integers(0, len(ENCODED) - 1)
EDGES = st.sampled_from([0, 1, 2, 2**8, 2**13, 2**16, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**64 - 1])
NUMBERS = EDGES | EDGES.map(lambda x: max(-x, -(2**63))) | st.integers(-5, 40)
SCALARS = st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
VALUES = SCALARS | st.lists(NUMBERS, max_size=4) | st.lists(SCALARS, max_size=3)


def checked(data: bytes) -> Segment | None:
    """`check_decoding`, in the memory that a small segment needs, whatever the bytes claim."""
    tracemalloc.start()
    try:
        segment = check_decoding(data)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    return segment


@EXAMPLES
@given(st.binary(max_size=400))
def test_any_bytes(noise: bytes) -> None:
    assert checked(noise) is None
    assert checked(b"APXS" + noise) is None


@st.composite
def damages(draw: st.DrawFn) -> bytes:
    """The segment with a few bytes changed, cut out, put in, repeated or swapped."""
    data = bytearray(ENCODED)
    for _ in range(draw(st.integers(1, 4))):
        place, other = draw(PLACES), draw(PLACES)
        start, end = min(place, other), max(place, other)
        match draw(st.integers(0, 5)):
            case 0:
                data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                del data[start:end]
            case 2:
                data[place:place] = draw(st.binary(min_size=1, max_size=20))
            case 3:
                data[end:end] = data[start:end]
            case 4:
                data[start:end] = bytes(reversed(data[start:end]))
            case _:
                del data[place:]
    return bytes(data)


@EXAMPLES
@given(damages())
def test_damaged_segments_are_refused_unless_nothing_is_changed(data: bytes) -> None:
    segment = checked(data)
    assert (segment is not None) == (data == ENCODED)


@EXAMPLES
@given(st.dictionaries(st.sampled_from(sorted(HEADER_FIELDS)), VALUES, min_size=1, max_size=3))
def test_forged_fields_are_refused_or_mean_what_they_say(fields: dict[str, Any]) -> None:
    segment = checked(with_fields(ENCODED, fields))
    if segment is not None:
        named = {name: fields[name] for name in vars(segment).keys() & fields.keys()}
        assert all(getattr(segment, name) == value for name, value in named.items())


@EXAMPLES
@given(st.one_of(st.binary(max_size=60), st.recursive(SCALARS, lambda inner: st.lists(inner)).map(packed)))
def test_any_header_under_right_checksums(header: bytes) -> None:
    assert checked(with_header_bytes(ENCODED, header)) is None


@EXAMPLES
@given(st.data())
def test_any_blocks_under_right_checksums(data: st.DataObject) -> None:
    """What cannot be told from real frames by its size is taken as frames; nothing crashes or grows."""
    blocks = bytearray(ENCODED[cuts_start(HEADER) :])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(blocks) - 1))
        blocks[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    segment = checked(with_blocks(ENCODED, bytes(blocks)))
    assert segment is None or segment.frames.shape == SEGMENT.frames.shape


def refused(data: bytes) -> bool:
    try:
        decode(data, run="run", signature=None)
    except SegmentError:
        return True
    return False


def test_every_flipped_bit_is_caught() -> None:
    assert same(decode(ENCODED, run="run", signature=None), SEGMENT)
    for bit in range(8 * len(ENCODED)):
        damaged = bytearray(ENCODED)
        damaged[bit // 8] ^= 1 << bit % 8
        assert refused(bytes(damaged)), bit


def test_every_flipped_bit_is_caught_by_byte_ranges_from_a_server() -> None:
    """The header by GETRANGE, and each block alone: the part with the bit is refused, the others right."""
    (shard,) = servers.make_shards(1)
    identity = SegmentIdentity(3, 1, 12)
    shard.writing.commit(identity, ENCODED, SEGMENT.num_items, 11)
    key, client = f"{shard._prefix}seg:{identity}", shard.client
    parts = [(0, cuts_start(HEADER)), *cuts(HEADER)]
    assert parts[-1][1] == len(ENCODED)
    assert len(parts) > 2
    for bit in range(8 * len(ENCODED)):
        client.setbit(key, bit, not bit_of(ENCODED, bit))
        assert broken_parts(shard, identity, parts) == [
            part for part, (start, end) in enumerate(parts) if start <= bit // 8 < end
        ], bit
        client.setbit(key, bit, bit_of(ENCODED, bit))
    assert broken_parts(shard, identity, parts) == []


def bit_of(data: bytes, bit: int) -> int:
    return data[bit // 8] >> (7 - bit % 8) & 1  # as Redis numbers them


def broken_parts(shard: Shard, identity: SegmentIdentity, parts: list[tuple[int, int]]) -> list[int]:
    """Name which of header and blocks are refused; those that are not must be what was written."""
    front, *blocks = shard.fetch_ranges([(identity, *part) for part in parts])
    broken = []
    try:
        assert decode_header(front).actions.tobytes() == HEADER.actions.tobytes()
    except SegmentError:
        broken.append(0)
    for number, data in enumerate(blocks):
        try:
            frames = block_frames(HEADER, number, data)
        except CorruptSegment:
            broken.append(number + 1)
        else:
            assert np.array_equal(frames, SEGMENT.frames[8 * number : 8 * number + 8])
    return broken


def test_sizes_in_the_prefix_are_not_believed() -> None:
    for header_bytes, columns_bytes in [(2**32 - 1, 0), (0, 2**32 - 1), (2**20, 2**31), (0, 0)]:
        front = PREFIX.pack(b"APXS", 1, header_bytes, columns_bytes, 0)
        assert checked(front + bytes(500)) is None
