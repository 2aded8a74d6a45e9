"""Random segments, and forged ones: other contents with right checksums."""

import struct
import zlib
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np

from replay.errors import CorruptSegment
from replay.segments.blocks import NUM_BYTES, START, STOP, decompress_scattered
from replay.segments.header import CHECKED_PREFIX_BYTES, PREFIX, SegmentHeader
from replay.types import Segment, SegmentIdentity, Signature
from tests.helpers.replay.streams import signature


def make_segment(
    seed: int = 0,
    *,
    items: int = 3,
    extra: int = 0,
    data: Signature | None = None,
    first_step: int = 7,
    priorities: bool = True,
) -> Segment:
    """A segment of random contents; some seeds end their episode with it."""
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


def forged(data: bytes, change: Callable[[dict[str, Any]], object], columns: bytes | None = None) -> bytes:
    """The segment with another header (and columns), and right checksums: a forgery, not damage."""
    magic, version, header_bytes, columns_bytes, _ = PREFIX.unpack_from(data)
    middle = PREFIX.size + header_bytes
    fields = msgpack.unpackb(data[PREFIX.size : middle])
    change(fields)
    kept = data[middle : middle + columns_bytes] if columns is None else columns
    return sealed(magic, version, msgpack.packb(fields), kept) + data[middle + columns_bytes :]


def of_version(version: int, data: bytes) -> bytes:
    """The segment as another format version would begin it."""
    magic, _, header_bytes, columns_bytes, _ = PREFIX.unpack_from(data)
    middle, end = PREFIX.size + header_bytes, PREFIX.size + header_bytes + columns_bytes
    return sealed(magic, version, data[PREFIX.size : middle], data[middle:end]) + data[end:]


def sealed(magic: bytes, version: int, header: bytes, columns: bytes) -> bytes:
    """Prefix with the right checksum, header and columns."""
    front = PREFIX.pack(magic, version, len(header), len(columns), 0)[:CHECKED_PREFIX_BYTES]
    return front + struct.pack("<I", zlib.crc32(front + header + columns)) + header + columns


def cuts_start(header: SegmentHeader) -> int:
    """Where the blocks of an encoded segment begin."""
    return int(header.blocks[0, START])


def cuts(header: SegmentHeader) -> list[tuple[int, int]]:
    """First byte and one past the last of each block."""
    return [(start, stop) for start, stop in header.blocks[:, START : STOP + 1].tolist()]


def block_frames(header: SegmentHeader, number: int, data: bytes) -> np.ndarray[Any, Any]:
    """Frames of one block as the sampler reads it by its byte range; raises CorruptSegment."""
    block = header.blocks[number : number + 1].copy()
    block[:, START : STOP + 1] -= block[0, START]
    out = np.zeros(int(block[0, NUM_BYTES]), np.uint8)
    none, one, two = (np.arange(count, dtype=np.int64) for count in (1, 2, 2))
    piece = np.array([[0, 0, len(out)]])
    if not data or decompress_scattered([data], none, one, block, two, piece, out)[0]:
        raise CorruptSegment(f"block {number} of segment {header.identity} is damaged")
    return out.reshape(-1, *header.signature.frame_shape)
