"""Checks that must pass for any bytes, which the hypothesis tests and the atheris harnesses share."""

import struct
import zlib
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from replay.errors import SegmentError
from replay.segments.blocks import START
from replay.segments.codec import decode_header, decode_with_header, encode
from replay.segments.header import PREFIX, SegmentHeader
from replay.types import Segment, SegmentIdentity
from tests.helpers.replay.segments import block_frames, cuts, cuts_start, forged, sealed


def check_decoding(data: bytes) -> Segment | None:
    """Decode bytes: either a refusal in one line (None), or a segment that is what its bytes say.

    What was decoded passes the writer's own checks, comes back from another encoding unchanged, and is the
    same by byte ranges.
    """
    try:
        header, segment = decode_with_header(data, run=None, signature=None)
    except SegmentError as error:
        kind, text = error.kind, str(error)
    else:
        check_segment(data, header, segment)
        return segment
    assert kind in ("corrupt", "version"), kind
    assert "\n" not in text
    assert len(text) < 400
    return None


def check_segment(data: bytes, header: SegmentHeader, segment: Segment) -> None:
    """Decoded from `data`, is it what a writer could have written, and the same by byte ranges?"""
    again = decode_with_header(encode(segment, header.run, header.signature), run=None, signature=None)[1]
    assert same(again, segment)
    assert np.array_equal(frames_by_ranges(data, header), segment.frames)


def frames_by_ranges(data: bytes, header: SegmentHeader) -> np.ndarray[Any, Any]:
    """All frames of a segment, read as the sampler reads what its store does not hold."""
    front = decode_header(data[: cuts_start(header)])
    blocks = [block_frames(front, block, data[start:stop]) for block, (start, stop) in enumerate(cuts(front))]
    return np.concatenate(blocks)


def same(one: Segment, other: Segment) -> bool:
    """Whether two segments are equal in every bit (a NaN priority is equal to itself)."""
    pairs = ((value, getattr(other, name)) for name, value in vars(one).items())
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def with_fields(data: bytes, fields: Mapping[str, Any]) -> bytes:
    """The segment with other header fields under right checksums."""
    return forged(data, lambda header: header.update(fields))


def with_header_bytes(data: bytes, header: bytes) -> bytes:
    """The segment with any bytes for a header, under right checksums."""
    magic, version, header_bytes, columns_bytes, _ = PREFIX.unpack_from(data)
    middle = PREFIX.size + header_bytes
    front = sealed(magic, version, header, data[middle : middle + columns_bytes])
    return front + data[middle + columns_bytes :]


def with_columns(data: bytes, columns: bytes) -> bytes:
    """The segment with any bytes for its columns, under right checksums."""
    return forged(data, lambda header: None, columns)


def with_blocks(data: bytes, blocks: bytes) -> bytes:
    """The segment with any bytes for its blocks, cut where the real ones are, under right checksums."""
    header = decode_header(data)
    start = cuts_start(header)
    parts = [blocks[a - start : b - start] for a, b in cuts(header)]
    parts[-1] = blocks[int(header.blocks[-1, START]) - start :]
    fields = {"block_sizes": list(map(len, parts)), "block_crcs": list(map(zlib.crc32, parts))}
    return with_fields(data[: cuts_start(header)], fields) + b"".join(parts)


def log_fields(
    identity: SegmentIdentity | bytes, items: object, steps: object, size: object
) -> dict[str, Any]:
    """A log row as writers make it."""
    return {
        "id": identity if isinstance(identity, bytes) else str(identity),
        "n": items,
        "s": steps,
        "b": size,
    }


def packed(value: object) -> bytes:
    """A msgpack value, b"" for what msgpack cannot hold."""
    try:
        return bytes(msgpack.packb(value))
    except (OverflowError, ValueError, TypeError, struct.error):
        return b""
