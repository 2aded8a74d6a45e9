"""Which blocks of which segments a batch of observations needs, and where each of their frames goes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.segments.codec import BLOCK_FRAMES
from replay.segments.returns import stack_positions


class BlockPlan(NamedTuple):
    """What to read and to copy for P observations of `stack` frames each.

    Blocks come by segment and in order, each once, however many observations want it. Pieces come by block:
    so each block can be dropped as soon as its pieces are copied.
    """

    segment: NDArray[np.int64]
    """(M,) of each block, the place of its segment among those given."""
    block: NDArray[np.int64]
    """(M,) its number within the segment."""
    run: NDArray[np.int64]
    """(M,) number of the byte range it is read with: consecutive blocks of a segment are one range."""
    pieces: NDArray[np.int64]
    """(M + 1,) block i has the pieces [pieces[i], pieces[i + 1])."""
    source: NDArray[np.int64]
    """(Q,) of each piece, its first frame within the block."""
    target: NDArray[np.int64]
    """(Q,) where that frame goes among the P * stack frames of all observations."""
    length: NDArray[np.int64]
    """(Q,) frames of the piece: consecutive on both sides."""
    zeros: NDArray[np.int64]
    """Frames among all P * stack that are zero frames."""


def plan_blocks(segment: NDArray[np.int64], newest: NDArray[np.int64], stack: int) -> BlockPlan:
    """The plan for observations whose newest frames are frames `newest` (P,) of segments `segment` (P,)."""
    positions = stack_positions(newest, stack)
    width = int(positions.max()) // BLOCK_FRAMES + 2  # a gap of one: runs never join across segments
    codes = np.where(positions >= 0, segment[:, None] * width + positions // BLOCK_FRAMES, -1)
    begins = np.ones(codes.shape, np.bool_)
    begins[:, 1:] = codes[:, 1:] != codes[:, :-1]
    first = np.flatnonzero(begins)
    count = np.diff(first, append=codes.size)
    flat = codes.reshape(-1)
    real = flat[first] >= 0
    first, count = first[real], count[real]
    order = np.argsort(flat[first], kind="stable")
    first, count = first[order], count[order]
    blocks, starts = np.unique(flat[first], return_index=True)
    return BlockPlan(
        segment=blocks // width,
        block=blocks % width,
        run=np.cumsum(np.diff(blocks, prepend=blocks[:1]) > 1),
        pieces=np.append(starts, len(first)),
        source=positions.reshape(-1)[first] % BLOCK_FRAMES,
        target=first,
        length=count,
        zeros=np.flatnonzero(flat < 0),
    )
