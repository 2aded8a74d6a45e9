"""Encode segments as the bytes stored in Redis, and decode them.

`encode` and `decode` are inverses. `decode_header` reads the front of a segment, which says where
its blocks are, so that a few frames can be fetched by byte range
(`replay/batches/block_reader.py`). The layout and the checks are described in
`replay/segments/header.py`.
"""

import zlib

import lz4.block
import numpy as np
from numpy.typing import NDArray

from replay.errors import CorruptSegment, ForeignSegment
from replay.segments.blocks import decompress_in_order
from replay.segments.header import BLOCK_FRAMES, SegmentHeader, decode_header, encode_header
from replay.types import Segment, Signature

__all__ = [
    "BLOCK_FRAMES",
    "SegmentHeader",
    "decode",
    "decode_body",
    "decode_header",
    "decode_with_header",
    "encode",
    "signature_mismatch",
]


def encode(segment: Segment, run: str, signature: Signature) -> bytes:
    """Encode a segment of `run`; `signature` is the writer's.

    Raises ValueError for a segment that `decode` would refuse.
    """
    _check_segment(segment, signature)
    pixels = np.ascontiguousarray(segment.frames).reshape(-1).data
    step = BLOCK_FRAMES * signature.frame_bytes
    # Without the decompressed size in front, which the header's counts give.
    blocks = [
        lz4.block.compress(pixels[start : start + step], store_size=False)
        for start in range(0, len(pixels), step)
    ]
    sizes = [len(block) for block in blocks]
    front = encode_header(segment, run, signature, sizes, [zlib.crc32(block) for block in blocks])
    return b"".join((front, *blocks))


def _check_segment(segment: Segment, signature: Signature) -> None:
    frames = (segment.lead + segment.num_steps + 1, *signature.frame_shape)
    if segment.frames.shape != frames or segment.frames.dtype != np.uint8:
        raise ValueError(f"frames are {segment.frames.dtype} {segment.frames.shape}, not uint8 {frames}")
    columns = (segment.rewards, segment.terminated, segment.truncated, segment.life_lost)
    if any(len(column) != segment.num_steps for column in columns):
        raise ValueError("columns differ in length")
    if segment.lead != min(signature.stack - 1, segment.first_step):
        raise ValueError(
            f"lead {segment.lead} does not fit stack {signature.stack} at step {segment.first_step}"
        )
    if not 1 <= segment.num_items <= segment.num_steps < segment.num_items + signature.n_step:
        raise ValueError(f"{segment.num_items} items do not fit {segment.num_steps} steps")
    if segment.priorities is not None and len(segment.priorities) != segment.num_items:
        raise ValueError("there must be one priority per item")
    if not np.isfinite(segment.rewards).all():
        raise ValueError("a reward is not a finite number")
    if segment.actions.min() < 0 or segment.actions.max() >= signature.num_actions:
        raise ValueError(f"an action is not one of {signature.num_actions}")
    if segment.terminated[:-1].any() or segment.truncated[:-1].any():
        raise ValueError("an episode's end before the last step")


def signature_mismatch(data: Signature, reader: Signature) -> str | None:
    """Return why a reader cannot use data of this signature and what to do, in a sentence; None if it can."""
    if data.frame_shape != reader.frame_shape:
        return (
            f"the data has frames of {data.frame_shape}, {reader.frame_shape} are asked for:"
            " keep the game and the size of frames that it began with, or start a new run (another --name)"
        )
    if data.num_actions != reader.num_actions:
        return (
            f"the data has {data.num_actions} actions, {reader.num_actions} are asked for:"
            " keep the game that it began with, or start a new run (another --name)"
        )
    for name in ("stack", "n_step"):
        stored, asked = getattr(data, name), getattr(reader, name)
        if asked > stored:
            return f"the data has {name} {stored}, {asked} is asked for: it can be lowered, never raised"
    return None


def decode(data: bytes, *, run: str | None, signature: Signature | None) -> Segment:
    """Decode and check a whole segment; `run=None` or `signature=None` skips that check.

    `signature` is the reader's. Raises CorruptSegment for damaged bytes, ForeignSegment for another
    format version or run, or for data that cannot serve the reader's signature.
    """
    return decode_with_header(data, run=run, signature=signature)[1]


def decode_with_header(
    data: bytes, *, run: str | None, signature: Signature | None
) -> tuple[SegmentHeader, Segment]:
    """Like `decode`, but return the header as well; the checks and errors are the same."""
    header = decode_header(data)
    return header, decode_body(header, data, run=run, signature=signature)


def decode_body(
    header: SegmentHeader, data: bytes, *, run: str | None, signature: Signature | None
) -> Segment:
    """Do the rest of `decode` for a segment whose header is decoded; the checks and errors are the same."""
    if run is not None and header.run != run:
        raise ForeignSegment(
            "run",
            f"segment {header.identity} is of run {header.run!r:.80}, not of {run!r:.80}: somebody copied or"
            " wrote it under this run's keys; give every run a --name of its own on shared servers",
        )
    mismatch = signature_mismatch(header.signature, signature) if signature is not None else None
    if mismatch is not None:
        raise ForeignSegment("signature", f"segment {header.identity}: {mismatch}")
    # Before memory is taken for the frames, which are only a claim until all bytes are there.
    if header.num_bytes != len(data):
        raise CorruptSegment(f"segment {header.identity} has {len(data)} bytes instead of {header.num_bytes}")
    return _segment(header, _all_frames(header, data))


def _all_frames(header: SegmentHeader, data: bytes) -> NDArray[np.uint8]:
    frames = np.empty((header.num_frames, *header.signature.frame_shape), np.uint8)
    bad = decompress_in_order(data, header.blocks, frames.reshape(-1))
    if bad is not None:
        raise CorruptSegment(f"block {bad} of segment {header.identity} is damaged")
    frames.flags.writeable = False
    return frames


def _segment(header: SegmentHeader, frames: NDArray[np.uint8]) -> Segment:
    return Segment(
        identity=header.identity,
        env_slot=header.env_slot,
        first_step=header.first_step,
        num_items=header.num_items,
        lead=header.lead,
        frames=frames,
        actions=header.actions,
        rewards=header.rewards,
        terminated=header.terminated,
        truncated=header.truncated,
        life_lost=header.life_lost,
        priorities=header.priorities,
        weights_version=header.weights_version,
    )
