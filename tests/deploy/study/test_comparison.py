from itertools import product

import numpy as np
import pytest

from deploy.study.errors import ScoresError
from deploy.study.statistics import aggregates
from deploy.study.statistics.comparison import aggregate_table, paired_over_games, warnings_about

GAMES = ("asterix", "boxing", "breakout", "pong", "qbert", "seaquest")
NAN = np.nan


def arm(shift=0.0, seeds=5, games=6):
    return np.random.default_rng(4).normal(size=(seeds, games)) * 0.1 + np.arange(games) + shift


def exact_p(differences):
    """Two-sided p of the signed ranks by going through all signs; no two differences may be equally large."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    found = abs(np.sum(ranks * np.sign(differences)))
    sums = [abs(np.dot(ranks, signs)) for signs in product([-1, 1], repeat=len(ranks))]
    return np.mean(np.array(sums) >= found)


@pytest.mark.parametrize("differences", [[1, 2, 3, 4, 5, 6], [1, -2, 3, 4, 5, 6, -0.5], [3, -1, 2, -4, 5]])
def test_the_paired_test_is_exact_for_few_games(differences):
    first = np.array(differences) + np.array([[0.25], [-0.25]])
    found = paired_over_games(first, np.zeros((3, len(differences))))
    assert found.p_value == pytest.approx(exact_p(np.array(differences)), rel=1e-9)
    assert (found.games, found.higher) == (len(differences), sum(d > 0 for d in differences))


def test_equally_large_differences_are_exact_too():
    # All signs alike: 2 of 2^6.
    assert paired_over_games(np.ones((2, 6)), np.zeros((2, 6))).p_value == pytest.approx(2 / 2**6)


def test_the_paired_test_looks_at_means_of_games_and_not_at_seeds():
    """A hundred seeds are no evidence about further games."""
    first = arm(1.0, seeds=100, games=4)
    found = paired_over_games(first, arm(0.0, seeds=100, games=4))
    assert found.p_value == found.smallest_p_value == 0.125
    assert paired_over_games(first, arm(0.0, seeds=3, games=4)).p_value == 0.125


def test_games_without_a_difference_are_left_out():
    first, second = np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 2.0, 3.5]])
    found = paired_over_games(first, second)
    assert (found.games, found.higher, found.p_value, found.smallest_p_value) == (1, 0, 1.0, 1.0)
    none = paired_over_games(first, first)
    assert (none.games, none.higher, none.p_value, none.smallest_p_value) == (0, 0, 1.0, 1.0)
    with pytest.raises(ScoresError, match="over the same games; found 3 and 2"):
        paired_over_games(first, second[:, :2])


def test_six_games_can_be_significant_and_five_cannot():
    assert paired_over_games(arm(1.0), arm(0.0)).p_value == 2 / 2**6
    five = paired_over_games(arm(1.0, games=5), arm(0.0, games=5))
    assert five.p_value == five.smallest_p_value == 0.0625


def test_the_table_has_every_aggregate_of_every_arm():
    arms = {"dense": arm(), "soft-8": arm(0.5, seeds=7)}
    table = aggregate_table(arms, GAMES, taus=[0.5, 2.5], repetitions=50, seed=3)
    how = {"repetitions": 50, "seed": 3}
    assert (table.games, table.baseline, table.taus, list(table.arms)) == (
        GAMES,
        "dense",
        (0.5, 2.5),
        list(arms),
    )
    for name, scores in arms.items():
        summary = table.arms[name]
        assert summary.runs == (len(scores), len(scores))
        assert summary.interquartile_mean == aggregates.interquartile_mean(scores, **how)
        assert summary.median == aggregates.median(scores, **how)
        assert summary.mean == aggregates.mean(scores, **how)
        assert summary.optimality_gap == aggregates.optimality_gap(scores, **how)
        assert summary.profile == aggregates.performance_profile(scores, [0.5, 2.5], **how)
    assert list(table.comparisons) == ["soft-8"]
    comparison = table.comparisons["soft-8"]
    assert comparison.probability_of_improvement == aggregates.probability_of_improvement(
        arms["soft-8"], arms["dense"], **how
    )
    assert comparison.over_games == paired_over_games(arms["soft-8"], arms["dense"])
    assert table.warnings == ()


def test_an_arms_numbers_do_not_depend_on_the_others():
    how = {"repetitions": 30}
    alone = aggregate_table({"b": arm(0.5)}, GAMES, **how)
    beside = aggregate_table({"a": arm(), "b": arm(0.5), "c": arm(0.7)}, GAMES, baseline="c", **how)
    assert beside.arms["b"] == alone.arms["b"]
    assert (alone.comparisons, list(beside.comparisons), beside.baseline) == ({}, ["a", "b"], "c")


def test_a_study_that_is_not_over_has_a_table_without_an_interquartile_mean():
    scores = arm()
    scores[4, 2] = NAN
    table = aggregate_table({"soft": scores}, GAMES, repetitions=30)
    assert (table.arms["soft"].interquartile_mean, table.arms["soft"].runs) == (None, (4, 5))
    assert table.warnings[-1] == (
        "soft has no interquartile mean: the interquartile mean needs the same number of runs in every game,"
        " and there are 4 to 5."
    )


def test_what_cannot_be_compared_is_refused_with_names():
    with pytest.raises(ScoresError, match=r"^there are no arms"):
        aggregate_table({}, GAMES)
    with pytest.raises(ScoresError, match=r"^arm soft: scores of 5 games, but 6 games are named"):
        aggregate_table({"dense": arm(), "soft": arm(games=5)}, GAMES)
    missing = arm()
    missing[:, 3] = NAN
    with pytest.raises(ScoresError, match=r"^arm soft: pong: there is no run; leave the game out"):
        aggregate_table({"dense": arm(), "soft": missing}, GAMES)
    with pytest.raises(ScoresError, match=r"^baseline x: no such arm; there are dense, soft"):
        aggregate_table({"dense": arm(), "soft": arm()}, GAMES, baseline="x")


def test_few_seeds_are_warned_about_by_name():
    (sentence,) = warnings_about({"dense": arm(), "soft": arm(seeds=3)}, GAMES)
    assert sentence.startswith("soft has 3 seeds in every game: with fewer than 5 the 95 % intervals")
    assert warnings_about({"soft": arm(seeds=5)}, GAMES) == ()
    fewer = arm()
    fewer[2:, [1, 3]] = NAN
    assert warnings_about({"soft": fewer}, GAMES)[0].startswith("soft has 2 seeds in boxing, pong: ")
    (sentence,) = warnings_about({"soft": arm(seeds=1)}, GAMES)
    assert sentence == "soft has 1 seed in every game: its intervals leave out how seeds differ there."


def test_few_games_and_many_arms_are_warned_about():
    (sentence,) = warnings_about({"dense": arm(games=4)}, GAMES[:4])
    assert sentence == (
        "With 4 games no test over games can give a p below 0.05 (the smallest possible is 0.125), and every"
        " interval is about these games alone."
    )
    (sentence,) = warnings_about({name: arm() for name in "abcde"}, GAMES)
    assert sentence == (
        "4 arms are compared with one baseline and p is not corrected for it: by Bonferroni's rule a p counts"
        " below 0.013."
    )
