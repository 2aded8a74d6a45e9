import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deploy.study.errors import ScoresError
from deploy.study.statistics import aggregates

FEW = {"repetitions": 20}
few_examples = settings(max_examples=30, derandomize=True, deadline=None)
ONE_ARM = [aggregates.mean, aggregates.median, aggregates.interquartile_mean, aggregates.optimality_gap]
NAN = np.nan
# Sixteenths are added and halved without rounding, so that invariances hold exactly or nearly so.
values = st.integers(-64, 256).map(lambda number: number / 16)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 4))
matrices = shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=values))
pairs = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)).flatmap(
    lambda sizes: st.tuples(*(arrays(np.float64, (seeds, sizes[2]), elements=values) for seeds in sizes[:2]))
)
close = {"rel": 0, "abs": 1e-12}


def shuffled(scores, seed):
    """Each game's runs in another order."""
    return np.random.default_rng(seed).permuted(scores, axis=0)


def test_known_answers():
    scores = [[0.0, 1.0, 2.0, 9.0], [1.0, 2.0, 3.0, 7.0]]
    # Means of the games: 0.5, 1.5, 2.5, 8.
    assert aggregates.mean(scores).value == 3.125
    assert aggregates.median(scores).value == 2.0
    # 0, 1 | 1, 2, 2, 3 | 7, 9
    assert aggregates.interquartile_mean(scores).value == 2.0
    # Below 1 is one run of eight, by 1; below 4 are six, by 4, 3, 3, 2, 2 and 1.
    assert aggregates.optimality_gap(scores).value == 1 / 8
    assert aggregates.optimality_gap(scores, gamma=4.0).value == 15 / 8
    profile = aggregates.performance_profile(scores, [-1.0, 1.0, 2.5, 9.0])
    assert [point.value for point in profile] == [1.0, 5 / 8, 3 / 8, 0.0]


def test_the_probability_of_improvement_counts_pairs_and_half_of_ties():
    first, second = [[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]], [[2.0, 1.0], [0.0, 9.0]]
    # First game: of 1, 2, 3 against 2, 0: 4 wins and a tie of 6; second: 3 of 6.
    assert aggregates.probability_of_improvement(first, second).value == (4.5 / 6 + 3 / 6) / 2


def test_games_with_other_numbers_of_runs_count_alike():
    scores = [[1.0, 0.0], [3.0, NAN], [NAN, NAN], [5.0, NAN]]
    assert aggregates.mean(scores).value == 1.5
    assert aggregates.median(scores).value == 1.5
    assert aggregates.optimality_gap(scores, gamma=4.0).value == pytest.approx((4 / 3 + 4) / 2)
    assert aggregates.performance_profile(scores, [2.0])[0].value == (2 / 3 + 0) / 2
    found = aggregates.probability_of_improvement(scores, [[4.0, -1.0]]).value
    assert found == pytest.approx((1 / 3 + 1) / 2)
    with pytest.raises(ScoresError, match=r"same number of runs in every game, and there are 1 to 3$"):
        aggregates.interquartile_mean(scores)


def test_missing_runs_are_never_drawn_and_lines_without_a_run_change_nothing():
    scores = np.array([[1.0, 0.0], [2.0, 1.0], [4.0, NAN]])
    found = aggregates.mean(scores)
    assert 0.5 <= found.low < found.high <= 2.5
    assert aggregates.mean(np.vstack([scores, [NAN, NAN]])).value == found.value
    # The only run of a game is in every resample.
    assert aggregates.mean([[1.0, 5.0], [1.0, NAN]]).bounds is None


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, 2.0], r"scores must be \(seeds, games\), with one of each at least; found shape \(2,\)"),
        (np.empty((0, 3)), r"found shape \(0, 3\)"),
        ([[1.0, np.inf]], "game 1: a score is infinite"),
        ([[NAN, 1.0], [NAN, 2.0]], "game 0: there is no run"),
    ],
)
def test_scores_that_are_none_are_refused_in_one_line(scores, message):
    for aggregate in ONE_ARM:
        with pytest.raises(ScoresError, match=message) as refused:
            aggregate(scores)
        assert "\n" not in str(refused.value)


def test_arms_of_other_games_are_not_compared():
    with pytest.raises(ScoresError, match="over the same games; found 2 and 3"):
        aggregates.probability_of_improvement(np.zeros((4, 2)), np.zeros((4, 3)))
    with pytest.raises(ScoresError, match="repetitions must be 1 or more, and is 0"):
        aggregates.mean([[1.0]], repetitions=0)


def test_the_interval_is_of_seeds_within_games_and_not_of_games():
    """Games far apart, seeds alike: what a bootstrap over all scores would take for a wide spread."""
    scores = np.array([[0.0, 10.0, 20.0]] * 4) + np.linspace(0.0, 0.1, 4)[:, None]
    found = aggregates.mean(scores)
    assert 10.0 <= found.low < found.high <= 10.1


def test_the_interval_of_the_mean_has_the_width_that_theory_gives():
    scores = np.random.default_rng(3).normal(size=(50, 10))
    found = aggregates.mean(scores, repetitions=5_000)
    error = np.sqrt(np.square(scores.std(axis=0) / np.sqrt(50)).sum()) / 10
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.04)


def test_a_game_with_missing_runs_varies_by_the_runs_that_it_has():
    """Four runs of one game are four draws, however many another game has."""
    few, many = np.full((4, 2), 1.0), np.full((40, 2), 1.0)
    few[:, 1] = [0.0, 1.0, 2.0, 3.0]
    many[:, 1] = NAN
    many[:4] = few
    widths = [np.ptp(aggregates.mean(scores).bounds) for scores in (few, many)]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


def test_more_repetitions_are_drawn_when_asked_and_a_seed_gives_the_same_again():
    scores = np.random.default_rng(0).normal(size=(5, 4))
    assert aggregates.mean(scores) == aggregates.mean(scores)
    assert aggregates.mean(scores, seed=1).bounds != aggregates.mean(scores).bounds
    assert aggregates.mean(scores, repetitions=3_000).bounds != aggregates.mean(scores).bounds


@pytest.mark.parametrize("aggregate", ONE_ARM)
@few_examples
@given(scores=matrices, seed=st.integers(0, 9))
def test_the_order_of_seeds_changes_nothing(aggregate, scores, seed):
    assert aggregate(shuffled(scores, seed), **FEW) == aggregate(scores, **FEW)


@pytest.mark.parametrize("aggregate", ONE_ARM)
@few_examples
@given(scores=matrices, seed=st.integers(0, 9))
def test_the_order_of_games_changes_no_value(aggregate, scores, seed):
    games = np.random.default_rng(seed).permutation(scores.shape[1])
    assert aggregate(scores[:, games], **FEW).value == pytest.approx(aggregate(scores, **FEW).value, **close)


@pytest.mark.parametrize("aggregate", ONE_ARM[:3])
@few_examples
@given(scores=matrices, factor=st.sampled_from([0.25, 1.0, 2.0]), shift=st.integers(-3, 3))
def test_units_do_not_matter(aggregate, scores, factor, shift):
    found, other = aggregate(scores, **FEW), aggregate(scores * factor + shift, **FEW)
    assert other.value == pytest.approx(found.value * factor + shift, **close)
    if found.bounds and other.bounds:
        assert other.bounds == pytest.approx([end * factor + shift for end in found.bounds], **close)
    assert scores.min() - 1e-12 <= found.value <= scores.max() + 1e-12


@few_examples
@given(pairs)
def test_the_probability_of_improvement_has_a_mirror_and_sees_ranks_alone(arms):
    first, second = arms
    found = aggregates.probability_of_improvement(first, second, **FEW).value
    assert 0.0 <= found <= 1.0
    mirrored = aggregates.probability_of_improvement(second, first, **FEW).value
    assert found + mirrored == pytest.approx(1.0, **close)
    assert aggregates.probability_of_improvement(first**3, second**3, **FEW).value == found
    assert aggregates.probability_of_improvement(first, first, **FEW).value == pytest.approx(0.5, **close)


@few_examples
@given(matrices, st.lists(values, min_size=2, max_size=6).map(sorted))
def test_a_profile_falls_from_all_to_none(scores, taus):
    profile = aggregates.performance_profile(scores, [-100.0, *taus, 100.0], **FEW)
    shares = [point.value for point in profile]
    assert shares[0] == pytest.approx(1.0, **close)
    assert shares[-1] == 0.0
    assert (np.diff(shares) <= 1e-12).all()


@few_examples
@given(matrices)
def test_twice_the_same_seeds_have_the_same_mean_median_and_gap(scores):
    for aggregate in (aggregates.mean, aggregates.median, aggregates.optimality_gap):
        twice = aggregate(np.vstack([scores, scores]), **FEW).value
        assert twice == pytest.approx(aggregate(scores, **FEW).value, **close)
