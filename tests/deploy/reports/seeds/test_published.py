"""The published seeds that come with the package, and the interval for one more seed."""

import math

import pytest

from deploy.reports.seeds.published import (
    AGENTS,
    ENCODERS,
    NotPublished,
    PredictionInterval,
    PublishedCurve,
    agent_named,
    factor,
    prediction_interval,
    published_curve,
)

ONE_TO_FIVE = (1.0, 2.0, 3.0, 4.0, 5.0)
# Of the table of Student's distribution, 99 % two-sided.
T4, T1 = 4.6041, 63.657


def test_five_seeds_reach_5_04_standard_deviations() -> None:
    assert factor(5) == pytest.approx(5.04, abs=0.005)
    assert factor(5) == pytest.approx(T4 * math.sqrt(1.2), abs=1e-3)
    assert factor(2) == pytest.approx(T1 * math.sqrt(1.5), rel=1e-4)


def test_the_interval_of_five_seeds_by_hand() -> None:
    interval = prediction_interval(ONE_TO_FIVE)
    assert interval is not None
    assert interval.mean == 3.0
    assert interval.half_width == pytest.approx(T4 * math.sqrt(1.2) * math.sqrt(2.5), rel=1e-4)
    assert (interval.low, interval.high) == pytest.approx((3 - 7.9744, 3 + 7.9744), abs=1e-3)


def test_equal_seeds_are_as_far_apart_as_their_rounding() -> None:
    interval = prediction_interval((2.0,) * 5)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((1.95, 2.05))


def test_the_runs_own_error_widens_it() -> None:
    floor, wide = 0.05, prediction_interval((2.0,) * 5, own_error=1.0, own_freedom=1)
    assert wide is not None
    assert wide.half_width == pytest.approx(math.hypot(floor, T1), rel=1e-4)
    many = prediction_interval((2.0,) * 5, own_error=1.0, own_freedom=1e9)
    assert many is not None
    assert many.half_width == pytest.approx(math.hypot(floor, 2.5758), rel=1e-4)


def test_one_seed_says_nothing_of_another() -> None:
    assert prediction_interval((1.0,)) is None
    assert prediction_interval(()) is None


@pytest.mark.parametrize(
    ("value", "verdict"), [(1.5, "inside"), (1.49, "below"), (2.5, "inside"), (2.51, "above")]
)
def test_the_ends_are_inside(value: float, verdict: str) -> None:
    assert PredictionInterval(2.0, 0.5).verdict(value) == verdict


def test_seeds_over_windows_keep_their_order() -> None:
    curve = PublishedCurve("g", "DQN", "CNN", (0, 1, 4), ((1.0, 2.0), (3.0, 6.0), (5.0,)))
    assert curve.seeds(1) == (3.0, 6.0)
    assert curve.seeds(2) == ()
    assert curve.seeds_over([0, 1]) == (2.0, 4.0)
    assert curve.seeds_over([0, 4]) == (), "a seed is missing"
    assert curve.seeds_over([0, 2]) == (), "a window is missing"
    assert curve.seeds_over([]) == ()


def test_what_was_published_comes_with_the_package() -> None:
    boxing = published_curve("Boxing", "rainbow")
    assert boxing.seeds(0) == (-6.2, -5.9, -5.9, -4.8, -5.6)
    assert boxing.seeds(1) == (-28.6, -31.5, -30.9, -31.4, -33.0)
    assert published_curve("krull", "rainbow").seeds(2) == (6671.6, 6876.9, 6775.6, 6709.5, 6743.9)
    assert published_curve("Breakout", "dqn").seeds(1) == (7.2, 5.6, 7.2, 8.1, 7.5)
    assert published_curve("Pong", "qr-dqn").seeds(3) == (4.9, 10.1, 5.6, 6.5, 9.6)
    for agent in AGENTS:
        for encoder in ENCODERS:
            curve = published_curve("ms_pacman", agent, encoder)
            assert curve.iterations[:20] == tuple(range(20))
            assert all(len(row) == 5 for row in curve.values[:20])


def test_mistakes_name_what_there_is() -> None:
    assert agent_named("Quantile") == agent_named("QR-DQN") == "qr-dqn"
    with pytest.raises(NotPublished, match="--agent sac: no published agent; allowed are dqn, c51, rainbow"):
        agent_named("sac")
    with pytest.raises(NotPublished, match=r"Boxng: no published seeds of this game; did you mean boxing"):
        published_curve("Boxng", "dqn")
