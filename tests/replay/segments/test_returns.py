import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from replay.config import ReturnRule
from replay.segments.returns import Returns, n_step_returns, stack_positions, stack_rows


def returns(
    rewards: list[float],
    *,
    stop: int | None = None,
    terminated: int | None = None,
    truncated: int | None = None,
    life_lost: int | None = None,
    n_step: int = 3,
    gamma: float = 0.5,
    reward_clip: float = 0.0,
    life_loss_terminates: bool = False,
) -> Returns:
    """Windows of all starts in [0, stop) of one segment; the events name the step they happen after."""

    def flags(place: int | None) -> NDArray[np.bool_]:
        return np.array([step == place for step in range(len(rewards))], np.bool_)

    stop = len(rewards) if stop is None else stop
    return n_step_returns(
        np.array(rewards, np.float32),
        flags(terminated),
        flags(truncated),
        flags(life_lost),
        np.arange(stop),
        np.full(stop, stop),
        ReturnRule(n_step, gamma, reward_clip, life_loss_terminates),
    )


def check(found: Returns, steps: list[int], reward: list[float], discount: list[float]) -> None:
    assert found.steps.tolist() == steps
    assert found.reward.tolist() == reward
    assert found.discount.tolist() == discount
    assert found.reward.dtype == found.discount.dtype == np.dtype(np.float32)


def test_windows_by_hand() -> None:
    check(returns([8, 4, 2, 1]), [3, 3, 2, 1], [10.5, 5.25, 2.5, 1], [0.125, 0.125, 0.25, 0.5])


def test_true_end_takes_the_bootstrap() -> None:
    check(returns([8, 4, 2, 1], terminated=3), [3, 3, 2, 1], [10.5, 5.25, 2.5, 1], [0.125, 0, 0, 0])


def test_time_limit_keeps_the_bootstrap() -> None:
    check(returns([8, 4, 2], truncated=2), [3, 2, 1], [10.5, 5, 2], [0.125, 0.25, 0.5])


def test_true_end_at_a_time_limit_is_a_true_end() -> None:
    check(returns([8, 4], terminated=1, truncated=1), [2, 1], [10, 4], [0, 0])


def test_nothing_after_an_end_is_counted() -> None:
    check(returns([8, 4, 2, 1], terminated=1), [2, 1, 2, 1], [10, 4, 2.5, 1], [0, 0, 0.25, 0.5])
    check(returns([8, 4, 2, 1], truncated=1), [2, 1, 2, 1], [10, 4, 2.5, 1], [0.25, 0.5, 0.25, 0.5])


def test_windows_stop_at_the_segments_end() -> None:
    check(returns([8, 4, 2, 1], stop=2), [2, 1], [10, 4], [0.25, 0.5])


def test_lost_life_ends_only_when_asked_to() -> None:
    check(returns([8, 4, 2], life_lost=1), [3, 2, 1], [10.5, 5, 2], [0.125, 0.25, 0.5])
    ends = returns([8, 4, 2], life_lost=1, life_loss_terminates=True)
    check(ends, [2, 1, 1], [10, 4, 2], [0, 0, 0.5])


def test_clipping_comes_before_the_sum() -> None:
    check(returns([8, -4, 0.25], reward_clip=1.0), [3, 2, 1], [0.5625, -0.875, 0.25], [0.125, 0.25, 0.5])


def test_sums_are_in_float64() -> None:
    # In float32 the small reward would be lost beside the large one before the large one is taken away again.
    found = returns([1e8, 1.0, -1e8], gamma=1.0)
    assert found.reward[0] == 1.0


def test_items_may_come_in_any_order_and_repeat() -> None:
    columns = np.array([1, 2, 4, 8], np.float32), np.zeros(4, bool), np.zeros(4, bool), np.zeros(4, bool)
    found = n_step_returns(
        *columns,
        np.array([2, 0, 2]),
        np.array([4, 2, 3]),
        ReturnRule(n_step=2, gamma=0.5, reward_clip=0.0),
    )
    check(found, [2, 2, 1], [8, 2, 4], [0.25, 0.25, 0.5])


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (0, 5), (2, 2), (3, 2)])
def test_items_outside_of_the_columns_are_refused(start: int, stop: int) -> None:
    columns = np.zeros(4, np.float32), np.zeros(4, bool), np.zeros(4, bool), np.zeros(4, bool)
    with pytest.raises(IndexError):
        n_step_returns(
            *columns,
            np.array([start]),
            np.array([stop]),
            ReturnRule(n_step=2, gamma=0.5, reward_clip=0.0),
        )


def test_stack_positions_by_hand() -> None:
    expected = [[-1, -1, -1, 0], [-1, -1, 0, 1], [2, 3, 4, 5]]
    assert stack_positions(np.array([0, 1, 5]), 4).tolist() == expected
    assert stack_positions(np.array([0, 5]), 1).tolist() == [[0], [5]]


def test_stack_rows_by_hand() -> None:
    frame_rows = np.array([7, 5, 9, 20, 21])  # two segments, of three and two frames
    rows = stack_rows(frame_rows, np.array([0, 0, 3, 3]), np.array([2, 0, 0, 1]), 3)
    assert rows.tolist() == [[7, 5, 9], [0, 0, 7], [0, 0, 20], [0, 20, 21]]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 5), st.randoms())
def test_rows_agree_with_positions(lengths: list[int], stack: int, random: object) -> None:
    rng = np.random.default_rng(random.randrange(2**32))  # type: ignore[attr-defined]
    frame_rows = rng.permutation(sum(lengths)) + 1
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    segment = rng.integers(len(lengths), size=12)
    newest = rng.integers(0, np.array(lengths)[segment])
    positions = stack_positions(newest, stack)
    expected = np.where(positions < 0, 0, frame_rows[np.maximum(begins[segment][:, None] + positions, 0)])
    np.testing.assert_array_equal(stack_rows(frame_rows, begins[segment], newest, stack), expected)


def test_rows_outside_of_the_table_are_refused() -> None:
    for first, newest in [(0, 3), (3, 0), (-1, 0), (0, -1)]:
        with pytest.raises(IndexError):
            stack_rows(np.array([7, 5, 9]), np.array([first]), np.array([newest]), 2)


def test_an_empty_batch_is_empty() -> None:
    assert stack_rows(np.array([7]), np.empty(0, np.int64), np.empty(0, np.int64), 4).shape == (0, 4)
    assert len(returns([], stop=0).steps) == 0
