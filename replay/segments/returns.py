"""Compute n-step returns and the frame positions of observations from stored steps, for many items at once.

Pure functions. Steps lie in flat column arrays, in which the columns of a segment are consecutive.
An item is named by its own column `start` and the end `stop` of its segment (the column after the
last), both positions in these arrays. The loops release the GIL and agree bit for bit with plain
Python floats.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.config import ReturnRule
from replay.segments.compiled import njit

ZERO_FRAME_POSITION = -1
"""Marks, in `stack_positions`, the all-zero frame before the first frame of an episode."""


class Returns(NamedTuple):
    """Windows, returns and discounts of B items."""

    steps: NDArray[np.int64]
    """(B,) window length m: the next observation is m steps after the observation."""
    reward: NDArray[np.float32]
    """(B,) n-step return."""
    discount: NDArray[np.float32]
    """(B,) factor on the bootstrap; 0 after a true end."""


def n_step_returns(
    rewards: NDArray[np.float32],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
    life_lost: NDArray[np.bool_],
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
    rule: ReturnRule,
) -> Returns:
    """Return windows, n-step returns and discounts of B items (Sutton and Barto, 2018, equation 7.1).

    The columns are flat arrays of the same length (S,); start and stop are (B,), with
    0 <= start < stop <= S. A window has at most `n_step` steps, ends at `stop`, and ends with the
    step that ends the episode (or loses a life, where the rule counts that as an end). A time limit
    keeps the bootstrap; a true end sets the discount to 0. Sums are in float64 and in order. Raises
    IndexError for items outside of the columns.
    """
    if start.size and (start.min() < 0 or stop.max() > len(rewards) or (start >= stop).any()):
        raise IndexError(f"items must lie in the {len(rewards)} columns and before their segment's end")
    return Returns(
        *_n_step_returns(
            rewards,
            terminated,
            truncated,
            life_lost,
            start,
            stop,
            rule.n_step,
            rule.gamma,
            rule.reward_clip if rule.reward_clip > 0 else np.inf,
            rule.life_loss_terminates,
        )
    )


@njit(nogil=True, cache=True)
def _n_step_returns(  # type: ignore[no-untyped-def]
    rewards, terminated, truncated, life_lost, start, stop, n_step, gamma, clip, life_loss_terminates
):
    count = len(start)
    steps = np.empty(count, np.int64)
    reward = np.empty(count, np.float32)
    discount = np.empty(count, np.float32)
    for item in range(count):
        total, power, column, bootstrap = 0.0, 1.0, start[item], True
        last = min(stop[item], column + n_step)
        while column < last:
            total += power * min(max(np.float64(rewards[column]), -clip), clip)
            power *= gamma
            lost = life_loss_terminates and life_lost[column]
            column += 1
            # Before the time limit: a step that is both is a true end.
            if terminated[column - 1] or lost:
                bootstrap = False
                break
            if truncated[column - 1]:
                break
        steps[item] = column - start[item]
        reward[item] = total
        discount[item] = power if bootstrap else 0.0
    return steps, reward, discount


def stack_positions(newest: NDArray[np.int64], stack: int) -> NDArray[np.int64]:
    """Return the positions (B, stack) of observations' frames in their segments, oldest first.

    `newest` (B,) holds the position of each observation's newest frame. Item i of a segment has its
    observation's newest frame at `lead + i` and its next observation's at `lead + i + steps`.
    ZERO_FRAME_POSITION marks the zero frame. A segment has fewer than `stack - 1` frames before its
    first item only where its episode began, and a reader's smaller stack just takes the last
    frames. A position before the first frame of the segment is therefore always before the first
    frame of the episode.
    """
    positions: NDArray[np.int64] = newest[:, None] + np.arange(1 - stack, 1, dtype=np.int64)
    return np.maximum(positions, np.int64(ZERO_FRAME_POSITION))


def stack_rows(
    frame_rows: NDArray[np.int64], first: NDArray[np.int64], newest: NDArray[np.int64], stack: int
) -> NDArray[np.int64]:
    """Return frame store rows of B observations: (B, stack) int64, oldest first, row 0 for the zero frame.

    `frame_rows` (F,) holds the rows of the segments' frames, one segment after the other. `first`
    (B,) is where in it an item's segment begins, and `newest` (B,) is the position of the
    observation's newest frame within the segment (see `stack_positions`). Raises IndexError outside
    of `frame_rows`.
    """
    if newest.size and (newest.min() < 0 or first.min() < 0 or (first + newest).max() >= len(frame_rows)):
        raise IndexError(f"observations must lie in the {len(frame_rows)} rows given")
    rows: NDArray[np.int64] = _stack_rows(frame_rows, first, newest, stack)
    return rows


@njit(nogil=True, cache=True)
def _stack_rows(frame_rows, first, newest, stack):  # type: ignore[no-untyped-def]
    # Row 0, the zero frame, stays where the episode had no frames yet.
    rows = np.zeros((len(newest), stack), np.int64)
    for item in range(len(newest)):
        for back in range(min(stack, newest[item] + 1)):
            rows[item, stack - 1 - back] = frame_rows[first[item] + newest[item] - back]
    return rows
