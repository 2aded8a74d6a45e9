"""Check a segment's columns in one compiled pass."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from replay.segments.compiled import njit, types

FAULTS: Final = (
    "",
    "a reward is not a finite number",
    "an action is out of range",
    "a flag is neither 0 nor 1",
    "an end before the last step",
)


@njit(
    types.int64(
        types.Array(types.float32, 1, "C", readonly=True),
        types.Array(types.int32, 1, "C", readonly=True),
        types.Array(types.uint8, 2, "C", readonly=True),
        types.int64,
    ),
    nogil=True,
    cache=True,
)
def _fault(rewards, actions, flags, num_actions):  # type: ignore[no-untyped-def]
    for step in range(len(rewards)):
        if not np.isfinite(rewards[step]):
            return 1
        if actions[step] < 0 or actions[step] >= num_actions:
            return 2
        # Flags are later viewed as bools, for which only 0 and 1 are valid bytes.
        if max(flags[0, step], flags[1, step], flags[2, step]) > 1:
            return 3
        if flags[0, step] + flags[1, step] > 0 and step < len(rewards) - 1:
            return 4
    return 0


def fault_of(
    rewards: NDArray[np.float32], actions: NDArray[np.int32], flags: NDArray[np.uint8], num_actions: int
) -> str:
    """Return what is wrong with the first invalid step of a segment, "" if every step is valid.

    The columns are rewards (S,), actions (S,) and flags (3, S): terminated, truncated, life lost.
    """
    return FAULTS[_fault(rewards, actions, flags, num_actions)]
