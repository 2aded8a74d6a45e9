"""Aggregates of human-normalised scores over games and seeds, with stratified bootstrap intervals.

Every function takes scores as (S, G), float64, one column a game, NaN where a game has fewer runs than
another, and raises ScoresError where they cannot be used. Definitions are those of Agarwal et al. 2021
(arXiv 2108.13264) and equal rliable's on the same numbers (decision 0032). Where games have different numbers
of runs each game counts alike; the interquartile mean, which pools all runs, is then refused.

The bootstrap draws runs anew within each game and leaves the games as they are. Letters: S seeds, G games,
R repetitions.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from deploy.reports.statistics import Estimate
from deploy.study.errors import ScoresError

REPETITIONS = 2_000
CONFIDENCE = 0.95

Scores = NDArray[np.float64]
"""(..., S, G) scores; NaN where a game has fewer runs than another."""
Values = NDArray[np.float64]
"""(...) one number for each of the first axes of scores (..., S, G)."""
Statistic = Callable[..., Values]
"""Of the scores of one arm, or of two."""


def mean_of(scores: Scores) -> Values:
    """Mean over games of the mean over runs."""
    return np.nanmean(scores, axis=-2).mean(axis=-1)


def median_of(scores: Scores) -> Values:
    """Median over games of the mean over runs."""
    return np.asarray(np.median(np.nanmean(scores, axis=-2), axis=-1))


def interquartile_mean_of(scores: Scores) -> Values:
    """Mean of all runs of all games without the lowest and the highest quarter, each rounded down."""
    pooled = scores.reshape(*scores.shape[:-2], -1)
    return np.asarray(stats.trim_mean(pooled, 0.25, axis=-1))


def optimality_gap_of(scores: Scores, gamma: float) -> Values:
    """How far runs are below `gamma` on average; beyond it a run gains nothing."""
    return gamma - mean_of(np.minimum(scores, gamma))


def share_above(scores: Scores, tau: float) -> Values:
    """Share of runs with a score above `tau`."""
    return mean_of(np.where(np.isnan(scores), np.nan, scores > tau))


def probability_of(first: Scores, second: Scores) -> Values:
    """Mean over games of P(a run of `first` is above one of `second`); equal scores count half.

    In each game it is the U of Mann and Whitney over the number of pairs.
    """
    # One game after the other: all pairs of all games at once would take gigabytes with many seeds.
    signs = [
        np.nanmean(np.sign(first[..., :, None, game] - second[..., None, :, game]), axis=(-2, -1))
        for game in range(first.shape[-1])
    ]
    return np.asarray(0.5 + 0.5 * np.mean(signs, axis=0))


def mean(scores: ArrayLike, *, repetitions: int = REPETITIONS, seed: int = 0) -> Estimate:
    """Return the mean over games of the mean over runs: the games with the highest scores decide it."""
    return _estimate(mean_of, scores, repetitions=repetitions, seed=seed)


def median(scores: ArrayLike, *, repetitions: int = REPETITIONS, seed: int = 0) -> Estimate:
    """Return the median over games of the mean over runs: the one or two games in the middle decide it."""
    return _estimate(median_of, scores, repetitions=repetitions, seed=seed)


def interquartile_mean(scores: ArrayLike, *, repetitions: int = REPETITIONS, seed: int = 0) -> Estimate:
    """Return the mean of the middle half of all runs of all games.

    Raises ScoresError also where games have different numbers of runs: a game with more runs would weigh
    more.
    """
    if reason := why_no_interquartile_mean(scores):
        raise ScoresError(reason)
    return _estimate(interquartile_mean_of, scores, repetitions=repetitions, seed=seed)


def why_no_interquartile_mean(scores: ArrayLike) -> str:
    """Return why these scores have no interquartile mean, in one line; empty if they have one."""
    runs = num_runs(checked(scores))
    if runs.min() == runs.max():
        return ""
    return (
        "the interquartile mean needs the same number of runs in every game,"
        f" and there are {runs.min()} to {runs.max()}"
    )


def optimality_gap(
    scores: ArrayLike, *, gamma: float = 1.0, repetitions: int = REPETITIONS, seed: int = 0
) -> Estimate:
    """Return how far runs are below `gamma` on average, 1 for human play; lower is better."""
    return _estimate(partial(optimality_gap_of, gamma=gamma), scores, repetitions=repetitions, seed=seed)


def performance_profile(
    scores: ArrayLike, taus: Sequence[float], *, repetitions: int = REPETITIONS, seed: int = 0
) -> tuple[Estimate, ...]:
    """Return the share of runs with a score above tau, for each tau; intervals are of each tau alone."""
    statistics = [partial(share_above, tau=tau) for tau in taus]
    return _estimates(statistics, scores, repetitions=repetitions, seed=seed)


def probability_of_improvement(
    first: ArrayLike, second: ArrayLike, *, repetitions: int = REPETITIONS, seed: int = 0
) -> Estimate:
    """Return the probability that a run of `first` is above one of `second` in a game drawn at random.

    The arms, (S1, G) and (S2, G), may have different numbers of seeds, but need the same games in the same
    order; ScoresError otherwise.
    """
    columns = [np.shape(scores)[-1] if np.ndim(scores) else 0 for scores in (first, second)]
    if columns[0] != columns[1]:
        raise ScoresError(f"two arms are compared over the same games; found {columns[0]} and {columns[1]}")
    return _estimate(probability_of, first, second, repetitions=repetitions, seed=seed)


def _estimate(statistic: Statistic, *arms: ArrayLike, repetitions: int, seed: int) -> Estimate:
    (found,) = _estimates([statistic], *arms, repetitions=repetitions, seed=seed)
    return found


def _estimates(
    statistics: Sequence[Statistic], *arms: ArrayLike, repetitions: int, seed: int
) -> tuple[Estimate, ...]:
    scores = [checked(arm) for arm in arms]
    samples = resamples(scores, repetitions, seed)
    return tuple(estimate_of(statistic, scores, samples) for statistic in statistics)


def checked(scores: ArrayLike, games: Sequence[str] = ()) -> Scores:
    """Return (S, G) scores as float64, each column sorted and its missing runs (NaN) last.

    The order makes intervals the same in whichever order the runs are given. `games` names the columns in
    errors. Raises ScoresError for another shape, an infinite score and a game without a run.
    """
    found = np.asarray(scores, dtype=np.float64)
    if found.ndim != 2 or 0 in found.shape:
        raise ScoresError(
            f"scores must be (seeds, games), with one of each at least; found shape {found.shape}"
        )
    if games and len(games) != found.shape[1]:
        raise ScoresError(f"scores of {found.shape[1]} games, but {len(games)} games are named")
    names = games or [f"game {place}" for place in range(found.shape[1])]
    for name, column in zip(names, found.T, strict=True):
        if np.isinf(column).any():
            raise ScoresError(f"{name}: a score is infinite")
        if np.isnan(column).all():
            raise ScoresError(f"{name}: there is no run; leave the game out or wait for one")
    return np.sort(found, axis=0)


def num_runs(scores: Scores) -> NDArray[np.int64]:
    """Return the (G,) numbers of runs in (S, G) scores."""
    return np.count_nonzero(~np.isnan(scores), axis=0)


def draw_runs(scores: Scores, repetitions: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return (R, S, G) places of runs, drawn with replacement among the runs of each game."""
    return generator.integers(0, num_runs(scores), size=(repetitions, *scores.shape))


def resample(scores: Scores, runs: NDArray[np.int64]) -> Scores:
    """Return the (R, S, G) scores at those places of `checked` scores; a missing run stays missing."""
    found = scores[runs, np.arange(scores.shape[1])]
    # A game with n runs keeps n of them in each repetition: columns are sorted with the missing ones last.
    return np.where(np.isnan(scores), np.nan, found)


def resamples(arms: Sequence[Scores], repetitions: int, seed: int) -> list[Scores]:
    """Return (R, S, G) resamples of each arm's `checked` scores; arms are drawn independently."""
    if repetitions < 1:
        raise ScoresError(f"repetitions must be 1 or more, and is {repetitions}")
    generator = np.random.default_rng(seed)
    return [resample(scores, draw_runs(scores, repetitions, generator)) for scores in arms]


def estimate_of(statistic: Statistic, arms: Sequence[Scores], samples: Sequence[Scores]) -> Estimate:
    """Return the statistic of the arms' (S, G) scores with the 95 % percentile interval of (R, S, G) samples.

    Where all resamples give the same, as of one run a game, there is no interval.
    """
    value = float(statistic(*arms))
    tail = 50 * (1 - CONFIDENCE)
    low, high = (float(end) for end in np.percentile(statistic(*samples), [tail, 100 - tail]))
    return Estimate(value, low, high) if low < high else Estimate(value)
