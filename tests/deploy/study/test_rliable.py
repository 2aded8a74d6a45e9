"""Point estimates and intervals equal rliable's on the same numbers and the same draws (decision 0032)."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from deploy.study.statistics import aggregates
from deploy.study.statistics.aggregates import checked, estimate_of, resample

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "rliable.json").read_text())
CASES, TAUS = GOLDEN["cases"], GOLDEN["taus"]
SCORES = {arm: np.array(scores) for arm, scores in GOLDEN["scores"].items()}
SEED, REPETITIONS = GOLDEN["made"]["seed"], GOLDEN["made"]["repetitions"]

ONE_ARM = {
    "mean": (aggregates.mean, aggregates.mean_of),
    "median": (aggregates.median, aggregates.median_of),
    "interquartile_mean": (aggregates.interquartile_mean, aggregates.interquartile_mean_of),
    "optimality_gap": (aggregates.optimality_gap, partial(aggregates.optimality_gap_of, gamma=1.0)),
    "optimality_gap_2": (
        partial(aggregates.optimality_gap, gamma=2.0),
        partial(aggregates.optimality_gap_of, gamma=2.0),
    ),
}
exactly = partial(pytest.approx, rel=0, abs=1e-12)


def with_rliables_draws(statistic, *arms):
    """The estimate with the places that rliable drew: in each repetition one array an arm."""
    # NumPy keeps what this old generator draws from a seed; rliable draws from the global one.
    generator = np.random.RandomState(SEED)
    scores = [checked(arm) for arm in arms]
    runs = [
        [generator.choice(len(arm), arm.shape, replace=True) for arm in scores] for _ in range(REPETITIONS)
    ]
    samples = [
        resample(arm, np.array(drawn)) for arm, drawn in zip(scores, zip(*runs, strict=True), strict=True)
    ]
    return estimate_of(statistic, scores, samples)


@pytest.mark.parametrize("arm", SCORES)
@pytest.mark.parametrize("name", ONE_ARM)
def test_an_aggregate_equals_rliables(name, arm):
    golden, (public, statistic) = CASES[name][arm], ONE_ARM[name]
    ((low,), (high,)) = golden["interval"]
    assert public(SCORES[arm]).value == exactly(golden["value"][0])
    assert with_rliables_draws(statistic, SCORES[arm]).bounds == exactly([low, high])


@pytest.mark.parametrize("arm", SCORES)
def test_a_performance_profile_equals_rliables(arm):
    golden = CASES["performance_profile"][arm]
    profile = aggregates.performance_profile(SCORES[arm], TAUS)
    assert [point.value for point in profile] == exactly(golden["value"])
    found = [with_rliables_draws(partial(aggregates.share_above, tau=tau), SCORES[arm]) for tau in TAUS]
    # Where all resamples agree rliable has an interval without width.
    ends = [point.bounds or [point.value] * 2 for point in found]
    assert np.transpose(ends) == exactly(np.array(golden["interval"]))


def test_the_probability_of_improvement_equals_rliables_with_other_numbers_of_seeds():
    golden, arms = CASES["probability_of_improvement"], [SCORES["first"], SCORES["second"]]
    assert [len(arm) for arm in arms] == [5, 3]
    ((low,), (high,)) = golden["interval"]
    assert aggregates.probability_of_improvement(*arms).value == exactly(golden["value"][0])
    assert with_rliables_draws(aggregates.probability_of, *arms).bounds == exactly([low, high])


@pytest.mark.parametrize("name", ONE_ARM)
def test_our_own_draws_give_the_same_interval_up_to_chance(name):
    """rliable's ends lie within 4 standard errors of ours: their spread over 20 seeds of as many draws."""
    public, _ = ONE_ARM[name]
    ours = [public(SCORES["first"], repetitions=REPETITIONS, seed=seed).bounds for seed in range(20)]
    error = np.std(ours, axis=0, ddof=1) * np.sqrt(1 + 1 / 20)
    off = np.abs(np.mean(ours, axis=0) - np.ravel(CASES[name]["first"]["interval"]))
    assert (off <= 4 * error).all()
