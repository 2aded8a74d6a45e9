"""Plan which blocks of which segments a batch of observations needs, and where each of their frames goes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.segments.codec import BLOCK_FRAMES
from replay.segments.returns import stack_positions


class BlockPlan(NamedTuple):
    """Blocks to read and pieces to copy for P observations of `stack` frames each.

    Blocks are ordered by segment and position, and each occurs once, however many observations need
    it. Pieces are ordered by block, so that each block can be dropped as soon as its pieces are
    copied.
    """

    segment: NDArray[np.int64]
    """(M,) index of each block's segment among the segments given."""
    block: NDArray[np.int64]
    """(M,) number of each block within its segment."""
    run: NDArray[np.int64]
    """(M,) number of the byte range that reads each block: consecutive blocks of a segment share one."""
    pieces: NDArray[np.int64]
    """(M + 1,) block i has the pieces [pieces[i], pieces[i + 1])."""
    source: NDArray[np.int64]
    """(Q,) first frame of each piece within its block."""
    target: NDArray[np.int64]
    """(Q,) position of that frame among the P * stack frames of all observations."""
    length: NDArray[np.int64]
    """(Q,) number of frames of each piece, consecutive in the block and in the observation."""
    zeros: NDArray[np.int64]
    """Positions among all P * stack frames that hold zero frames."""


def plan_blocks(segment: NDArray[np.int64], newest: NDArray[np.int64], stack: int) -> BlockPlan:
    """Plan for observations whose newest frames are frames `newest` (P,) of segments `segment` (P,)."""
    positions = stack_positions(newest, stack)
    width = int(positions.max()) // BLOCK_FRAMES + 2  # a gap of one block: runs never join across segments
    # One number for each block of each segment, in their order; -1 for zero frames.
    codes = np.where(positions >= 0, segment[:, None] * width + positions // BLOCK_FRAMES, -1)
    # A piece begins at each observation's first frame and wherever the block changes.
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
