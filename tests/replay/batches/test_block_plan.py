"""The plan of a read against the obvious way: every frame of every observation looked up by itself."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from replay.batches.block_plan import plan_blocks
from replay.segments.codec import BLOCK_FRAMES


@given(
    places=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 70)), min_size=1, max_size=40),
    stack=st.integers(1, 10),
)
def test_every_frame_goes_where_it_belongs(places: list[tuple[int, int]], stack: int) -> None:
    segment, newest = (np.array(column, np.int64) for column in zip(*places, strict=True))
    plan = plan_blocks(segment, newest, stack)
    frames: list[tuple[int, int] | str | None] = ["unset"] * (len(places) * stack)
    for block in range(len(plan.block)):
        for piece in range(plan.pieces[block], plan.pieces[block + 1]):
            for offset in range(plan.length[piece]):
                place = int(plan.source[piece]) + offset
                assert place < BLOCK_FRAMES
                assert frames[plan.target[piece] + offset] == "unset"
                frame = int(plan.block[block]) * BLOCK_FRAMES + place
                frames[plan.target[piece] + offset] = (int(plan.segment[block]), frame)
    for place in plan.zeros.tolist():
        assert frames[place] == "unset"
        frames[place] = None
    wanted = [
        (of, last - back) if last - back >= 0 else None
        for of, last in places
        for back in range(stack - 1, -1, -1)
    ]
    assert frames == wanted
    blocks = list(zip(plan.segment.tolist(), plan.block.tolist(), strict=True))
    assert blocks == sorted({(of, f // BLOCK_FRAMES) for of, f in filter(None, wanted)})
    joined = [plan.run[i] == plan.run[i - 1] for i in range(1, len(blocks))]
    neighbours = [
        here[0] == before[0] and here[1] == before[1] + 1 for before, here in itertools.pairwise(blocks)
    ]
    assert joined == neighbours
