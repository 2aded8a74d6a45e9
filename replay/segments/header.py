"""The front of an encoded segment: a fixed prefix, a msgpack header and the scalar columns.

Layout of a whole segment (all numbers little-endian):

  prefix    4s magic, u32 format version, u32 header bytes, u32 columns bytes, u32 crc
  header    msgpack map, see `HEADER_FIELDS`
  columns   reward f4, action i4, [priority f4, one an item,] terminated u1, truncated u1, life_lost u1
  blocks    lz4 blocks of up to 8 frames, each with its size and crc32 in the header

The crc32 in the prefix covers the other fields of the prefix, the header and the columns. The
prefix is the same in every format version, so that another version can be told from damage. Anybody
may have written to the server that the bytes come from: no size is trusted before it is checked
against the bytes received.
"""

import itertools
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from replay.errors import CorruptSegment, ForeignSegment
from replay.segments.blocks import CRC, NUM_BYTES, START, STOP
from replay.segments.columns import fault_of
from replay.types import FrameShape, Segment, SegmentIdentity, Signature, is_frame_shape

MAGIC: Final = b"APXS"
FORMAT_VERSION: Final = 1
CODEC: Final = "lz4"
BLOCK_FRAMES: Final = 8
PREFIX: Final = struct.Struct("<4sIIII")
CHECKED_PREFIX_BYTES: Final = PREFIX.size - 4  # all of it but the crc itself
# Limits on what a header may claim, checked before memory is allocated for it.
MAX_HEADER_BYTES: Final = 1 << 20
MAX_STEPS: Final = 1 << 13
MAX_STACK: Final = 1 << 8
MAX_N_STEP: Final = 1 << 10
MAX_SIDE: Final = 1 << 12
MAX_FRAMES_BYTES: Final = 1 << 30
LZ4_MAX_RATIO: Final = 255  # one byte of an lz4 block never expands to more bytes than this
BYTES_PER_STEP: Final = 4 + 4 + 3
# fmt: off
HEADER_FIELDS: Final = frozenset((
    "run", "actor", "incarnation", "seq", "env_slot", "first_step", "num_items", "num_steps",
    "lead", "weights_version", "frame_shape", "stack", "n_step", "num_actions", "codec",
    "block_frames", "has_priorities", "block_sizes", "block_crcs",
))
# fmt: on


@dataclass(frozen=True)
class SegmentHeader:
    """All of an encoded segment but its frames, checked; it does not keep the encoded bytes alive."""

    run: str
    identity: SegmentIdentity
    signature: Signature
    """The writer's signature."""
    env_slot: int
    first_step: int
    num_items: int
    num_steps: int
    lead: int
    weights_version: int
    actions: NDArray[np.int32]
    """(num_steps,)"""
    rewards: NDArray[np.float32]
    """(num_steps,), raw and finite."""
    terminated: NDArray[np.bool_]
    """(num_steps,)"""
    truncated: NDArray[np.bool_]
    """(num_steps,)"""
    life_lost: NDArray[np.bool_]
    """(num_steps,)"""
    priorities: NDArray[np.float32] | None
    """(num_items,) as the actor wrote them: the user of these must refuse NaN and negative values."""
    blocks: NDArray[np.int64]
    """(num_blocks, 4), columns as in `blocks.py`; bytes are counted from the first of the encoded segment."""

    @property
    def num_frames(self) -> int:
        """Number of stored frames."""
        return self.lead + self.num_steps + 1

    @property
    def num_bytes(self) -> int:
        """Size of the whole encoded segment."""
        return int(self.blocks[-1, STOP])


def most_bytes(frame_shape: FrameShape) -> int:
    """Return a number of bytes larger than any encoded segment with frames of this shape."""
    steps = MAX_STEPS + MAX_N_STEP
    frames_bytes = (MAX_STACK + steps) * math.prod(frame_shape)
    # lz4 expands an incompressible block by a 255th and a few bytes.
    return PREFIX.size + MAX_HEADER_BYTES + (BYTES_PER_STEP + 4) * steps + frames_bytes * 9 // 8


def encode_header(
    segment: Segment, run: str, signature: Signature, block_sizes: list[int], block_crcs: list[int]
) -> bytes:
    """Return prefix, header and columns of a segment whose blocks are already compressed."""
    fields = {
        "run": run,
        **segment.identity._asdict(),
        "env_slot": segment.env_slot,
        "first_step": segment.first_step,
        "num_items": segment.num_items,
        "num_steps": segment.num_steps,
        "lead": segment.lead,
        "weights_version": segment.weights_version,
        "frame_shape": signature.frame_shape,
        "stack": signature.stack,
        "n_step": signature.n_step,
        "num_actions": signature.num_actions,
        "codec": CODEC,
        "block_frames": BLOCK_FRAMES,
        "has_priorities": segment.priorities is not None,
        "block_sizes": block_sizes,
        "block_crcs": block_crcs,
    }
    header: bytes = msgpack.packb(fields)
    columns = _pack_columns(segment)
    front = PREFIX.pack(MAGIC, FORMAT_VERSION, len(header), len(columns), 0)[:CHECKED_PREFIX_BYTES]
    crc = zlib.crc32(columns, zlib.crc32(header, zlib.crc32(front)))
    return b"".join((front, struct.pack("<I", crc), header, columns))


def _pack_columns(segment: Segment) -> bytes:
    priorities = b"" if segment.priorities is None else segment.priorities.astype("<f4").tobytes()
    flags = (segment.terminated, segment.truncated, segment.life_lost)
    return b"".join(
        (
            segment.rewards.astype("<f4").tobytes(),
            segment.actions.astype("<i4").tobytes(),
            priorities,
            *(flag.astype(np.uint8).tobytes() for flag in flags),
        )
    )


def decode_header(data: bytes) -> SegmentHeader:
    """Read and check the front of an encoded segment; `data` may end anywhere after the columns.

    Raises CorruptSegment, or ForeignSegment for another format version. Whether this reader can use
    the data (run, signature) is not checked here.
    """
    header_bytes, columns_bytes = _check_prefix(data)
    start = PREFIX.size + header_bytes
    fields = _unpack_fields(data[PREFIX.size : start])
    # Slices copy: a header that is kept for long must not keep its segment's frames alive.
    return _Reader(fields).header(data[start : start + columns_bytes], start + columns_bytes)


def _check_prefix(data: bytes) -> tuple[int, int]:
    if len(data) < PREFIX.size:
        raise CorruptSegment(f"{len(data)} bytes are too few for a segment")
    magic, version, header_bytes, columns_bytes, crc = PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise CorruptSegment(f"a segment begins with {MAGIC!r}, not with {magic!r}")
    end = PREFIX.size + header_bytes + columns_bytes
    if header_bytes > MAX_HEADER_BYTES or end > len(data):
        raise CorruptSegment(f"header and columns would need {end} bytes, there are {len(data)}")
    body = memoryview(data)[PREFIX.size : end]
    if zlib.crc32(body, zlib.crc32(data[:CHECKED_PREFIX_BYTES])) != crc:
        raise CorruptSegment("checksum of header and columns is wrong")
    # Only after the checksum: a damaged version number is damage, not another format.
    if version != FORMAT_VERSION:
        raise ForeignSegment(
            "version",
            f"segment of format version {version}; this program reads version {FORMAT_VERSION}:"
            " continue with the version of apexpert that wrote it, or start a new run (another --name)",
        )
    return header_bytes, columns_bytes


def _unpack_fields(packed: bytes) -> dict[str, Any]:
    try:
        fields = msgpack.unpackb(packed)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise CorruptSegment(f"header is not msgpack: {error}") from error
    if not isinstance(fields, dict) or set(fields) != HEADER_FIELDS:
        raise CorruptSegment("header lacks fields or has unknown ones")
    return fields


class _Reader:
    """Reads the fields of a header and refuses wrong types and values out of range."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def header(self, columns: bytes, blocks_start: int) -> SegmentHeader:
        if not isinstance(self._fields["run"], str) or self._fields["codec"] != CODEC:
            raise CorruptSegment("run or codec in the header is wrong")
        self._integer("block_frames", BLOCK_FRAMES, BLOCK_FRAMES)
        signature = self._signature()
        counts = self._counts(signature)
        blocks = self._blocks(signature, counts["lead"] + counts["num_steps"] + 1, blocks_start)
        return SegmentHeader(
            run=self._fields["run"],
            identity=SegmentIdentity(*(self._integer(name) for name in SegmentIdentity._fields)),
            signature=signature,
            env_slot=self._integer("env_slot"),
            weights_version=self._integer("weights_version"),
            **counts,
            **self._columns(columns, counts["num_steps"], counts["num_items"], signature.num_actions),
            blocks=blocks,
        )

    def _integer(self, name: str, low: int = 0, high: int = (1 << 63) - 1) -> int:
        return _in_range(self._fields[name], name, low, high)

    def _integers(self, name: str, length: int, high: int) -> list[int]:
        values = self._fields[name]
        if not isinstance(values, list) or len(values) != length:
            raise CorruptSegment(f"{name} in the header is not a list of {length}")
        if set(map(type, values)) == {int} and min(values) >= 0 and max(values) <= high:
            return values  # checked as a whole; the loop below only finds the culprit for the error
        return [_in_range(value, name, 0, high) for value in values]

    def _signature(self) -> Signature:
        sides = self._fields["frame_shape"]
        # Two sides, or three of frames with several planes.
        length = 3 if isinstance(sides, list) and len(sides) == 3 else 2
        frame_shape = tuple(self._integers("frame_shape", length, MAX_SIDE))
        if not is_frame_shape(frame_shape):
            raise CorruptSegment("frames without pixels")
        return Signature(
            frame_shape=frame_shape,
            stack=self._integer("stack", 1, MAX_STACK),
            n_step=self._integer("n_step", 1, MAX_N_STEP),
            num_actions=self._integer("num_actions", 1, 1 << 31),  # actions are int32
        )

    def _counts(self, signature: Signature) -> dict[str, Any]:
        num_items = self._integer("num_items", 1, MAX_STEPS)
        num_steps = self._integer("num_steps", num_items, num_items + signature.n_step - 1)
        first_step = self._integer("first_step")
        real = min(signature.stack - 1, first_step)
        lead = self._integer("lead", real, real)
        if (lead + num_steps + 1) * signature.frame_bytes > MAX_FRAMES_BYTES:
            raise CorruptSegment(f"frames would take more than {MAX_FRAMES_BYTES} bytes")
        return {"num_items": num_items, "num_steps": num_steps, "first_step": first_step, "lead": lead}

    def _blocks(self, signature: Signature, num_frames: int, start: int) -> NDArray[np.int64]:
        num_blocks = -(-num_frames // BLOCK_FRAMES)
        frame_bytes = signature.frame_bytes
        blocks = np.empty((num_blocks, 4), np.int64)
        sizes = self._integers("block_sizes", num_blocks, MAX_FRAMES_BYTES)
        blocks[:, STOP] = list(itertools.accumulate(sizes, initial=start))[1:]
        blocks[0, START] = start
        blocks[1:, START] = blocks[:-1, STOP]
        blocks[:, NUM_BYTES] = BLOCK_FRAMES * frame_bytes
        blocks[-1, NUM_BYTES] = (num_frames - BLOCK_FRAMES * (num_blocks - 1)) * frame_bytes
        blocks[:, CRC] = self._integers("block_crcs", num_blocks, (1 << 32) - 1)
        # All blocks but the last hold the same number of frames, so checking the smallest is enough.
        smallest = min(sizes[:-1], default=MAX_FRAMES_BYTES)
        if (
            smallest * LZ4_MAX_RATIO < blocks[0, NUM_BYTES]
            or sizes[-1] * LZ4_MAX_RATIO < blocks[-1, NUM_BYTES]
        ):
            raise CorruptSegment("blocks are too small for the frames they claim to hold")
        return blocks

    def _columns(self, columns: bytes, steps: int, items: int, num_actions: int) -> dict[str, Any]:
        has_priorities = self._fields["has_priorities"]
        if not isinstance(has_priorities, bool):
            raise CorruptSegment("has_priorities in the header is not true or false")
        floats = items if has_priorities else 0
        if len(columns) != steps * BYTES_PER_STEP + 4 * floats:
            raise CorruptSegment(f"{len(columns)} bytes of columns do not fit {steps} steps")
        rewards = np.frombuffer(columns, "<f4", steps)
        actions = np.frombuffer(columns, "<i4", steps, 4 * steps)
        flags = np.frombuffer(columns, np.uint8, 3 * steps, 8 * steps + 4 * floats).reshape(3, steps)
        if fault := fault_of(rewards, actions, flags, num_actions):
            raise CorruptSegment(fault)
        terminated, truncated, life_lost = flags.view(np.bool_)
        priorities = np.frombuffer(columns, "<f4", floats, 8 * steps) if has_priorities else None
        return {
            "actions": actions,
            "rewards": rewards,
            "terminated": terminated,
            "truncated": truncated,
            "life_lost": life_lost,
            "priorities": priorities,
        }


def _in_range(value: object, name: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:  # bool is an int to isinstance
        raise CorruptSegment(
            f"{name} in the header is {value!r:.40}, not a whole number from {low} to {high}"
        )
    return value
