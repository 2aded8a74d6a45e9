"""Arms beside each other: all aggregates, a test over games, and what the numbers cannot show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from deploy.reports.statistics import Estimate
from deploy.study.errors import ScoresError
from deploy.study.statistics import aggregates
from deploy.study.statistics.aggregates import REPETITIONS, Scores, checked, num_runs

SIGNIFICANT = 0.05
FEW_SEEDS = 5
TOO_NARROW = (
    "with fewer than 5 the 95 % intervals are too narrow (over 20 simulated games that of an"
    " interquartile mean lies wholly to one side of the true value in 16 % of studies with 3 seeds, 11 %"
    " with 5, 6 % with 10)."
)
"""Measured by benchmarks/interval_coverage.py, see docs/statistics.md; 5 % if intervals were exact."""
FEW_GAMES = 6
"""With fewer, no two-sided p of Wilcoxon's test is below 0.05: the smallest is 2 / 2^games."""
TAUS = tuple(round(0.05 * step, 2) for step in range(41))
"""Human-normalised scores of a performance profile: 0 to 2."""


@dataclass(frozen=True)
class PairedTest:
    """Wilcoxon's signed-rank test of two arms over games, each game one pair: the difference of its means."""

    games: int
    """Games with a difference; those without one say nothing and are left out."""
    higher: int
    """Games in which the first arm's mean is the higher one."""
    p_value: float
    """Two-sided; 1 without a game. Exact up to 50 games, or 13 if some differences are equally large."""

    @property
    def smallest_p_value(self) -> float:
        """The least p that so many games can have, when one arm is better in all of them."""
        return min(1.0, 2.0 ** (1 - self.games))


@dataclass(frozen=True)
class ArmSummary:
    """One arm's aggregates."""

    runs: tuple[int, int]
    """Fewest and most runs of a game."""
    interquartile_mean: Estimate | None
    """None where games have different numbers of runs."""
    median: Estimate
    mean: Estimate
    optimality_gap: Estimate
    profile: tuple[Estimate, ...]
    """Share of runs above each of the table's taus."""


@dataclass(frozen=True)
class Comparison:
    """One arm beside the table's baseline."""

    probability_of_improvement: Estimate
    """That a run of the arm is above one of the baseline."""
    over_games: PairedTest


@dataclass(frozen=True)
class AggregateTable:
    """All aggregates of all arms, of human-normalised scores on the same games."""

    games: tuple[str, ...]
    baseline: str
    taus: tuple[float, ...]
    arms: dict[str, ArmSummary]
    comparisons: dict[str, Comparison]
    """Of every arm but the baseline."""
    warnings: tuple[str, ...]
    """What the numbers cannot show, a sentence each; to be printed with them."""


def aggregate_table(
    arms: Mapping[str, ArrayLike],
    games: Sequence[str],
    *,
    baseline: str = "",
    taus: Sequence[float] = TAUS,
    repetitions: int = REPETITIONS,
    seed: int = 0,
) -> AggregateTable:
    """Return the table of arms, each (S, G) human-normalised scores in the order of `games`.

    Arms may have different numbers of seeds, NaN for a missing run. The baseline is the first arm unless
    named. An arm's numbers do not depend on the other arms. Raises ScoresError, naming arm and game.
    """
    scores = _checked_arms(arms, games)
    baseline = baseline or next(iter(scores))
    if baseline not in scores:
        raise ScoresError(f"baseline {baseline}: no such arm; there are {', '.join(scores)}")
    how = {"repetitions": repetitions, "seed": seed}
    return AggregateTable(
        games=tuple(games),
        baseline=baseline,
        taus=tuple(taus),
        arms={arm: _summary(found, taus, how) for arm, found in scores.items()},
        comparisons=compared(scores, baseline, **how),
        warnings=warnings_about(scores, games),
    )


def compared(
    arms: Mapping[str, Scores], baseline: str, *, repetitions: int = REPETITIONS, seed: int = 0
) -> dict[str, Comparison]:
    """Return every other arm beside `baseline`: (S, G) scores on the same games.

    The probability of improvement and the number of games with a higher mean are within games and need no
    common scale of theirs; the test's p does. Raises ScoresError.
    """
    how, base = {"repetitions": repetitions, "seed": seed}, arms[baseline]
    return {
        arm: Comparison(
            aggregates.probability_of_improvement(found, base, **how), paired_over_games(found, base)
        )
        for arm, found in arms.items()
        if arm != baseline
    }


def paired_over_games(first: ArrayLike, second: ArrayLike) -> PairedTest:
    """Test with the games as the sample whether `first`, (S1, G), differs from `second`, (S2, G).

    The bootstrap asks what other seeds would give on these games; this asks what other games would give
    (Wilcoxon 1945; Demsar 2006 for comparisons over many data sets). Raises ScoresError.
    """
    means = [np.nanmean(checked(scores), axis=0) for scores in (first, second)]
    if len(means[0]) != len(means[1]):
        raise ScoresError(
            f"two arms are compared over the same games; found {len(means[0])} and {len(means[1])}"
        )
    differences = means[0] - means[1]
    differences = differences[differences != 0.0]
    p_value = float(stats.wilcoxon(differences).pvalue) if len(differences) else 1.0
    return PairedTest(len(differences), int(np.count_nonzero(differences > 0)), p_value)


def warnings_about(arms: Mapping[str, ArrayLike], games: Sequence[str]) -> tuple[str, ...]:
    """Return what intervals and tests over these arms cannot show, a plain sentence each."""
    scores = _checked_arms(arms, games)
    found = list(about_runs(scores, games))
    for arm, values in scores.items():
        if reason := aggregates.why_no_interquartile_mean(values):
            found.append(f"{arm} has no interquartile mean: {reason}.")
    if len(games) < FEW_GAMES:
        smallest = 2.0 ** (1 - len(games))
        found.append(
            f"With {len(games)} games no test over games can give a p below {SIGNIFICANT} (the smallest"
            f" possible is {smallest:g}), and every interval is about these games alone."
        )
    if len(scores) > 2:
        number = len(scores) - 1
        found.append(
            f"{number} arms are compared with one baseline and p is not corrected for it: by Bonferroni's"
            f" rule a p counts below {SIGNIFICANT / number:.2g}."
        )
    return tuple(found)


def about_runs(arms: Mapping[str, Scores], games: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence for every arm that has few seeds in a game."""
    return tuple(sentence for arm, scores in arms.items() for sentence in _about_seeds(arm, scores, games))


def _about_seeds(arm: str, scores: Scores, games: Sequence[str]) -> list[str]:
    runs = num_runs(scores)
    fewest, found = int(runs.min()), []
    where = ", ".join(game for game, number in zip(games, runs, strict=True) if number == fewest)
    where = "every game" if fewest == runs.max() else where
    if fewest == 1:
        found.append(f"{arm} has 1 seed in {where}: its intervals leave out how seeds differ there.")
    elif fewest < FEW_SEEDS:
        found.append(f"{arm} has {fewest} seeds in {where}: {TOO_NARROW}")
    return found


def _checked_arms(arms: Mapping[str, ArrayLike], games: Sequence[str]) -> dict[str, Scores]:
    if not arms:
        raise ScoresError("there are no arms to compare")
    found = {}
    for arm, scores in arms.items():
        try:
            found[arm] = checked(scores, games)
        except ScoresError as error:
            raise ScoresError(f"arm {arm}: {error}") from None
    return found


def _summary(scores: Scores, taus: Sequence[float], how: dict[str, int]) -> ArmSummary:
    runs, pooled = num_runs(scores), not aggregates.why_no_interquartile_mean(scores)
    return ArmSummary(
        runs=(int(runs.min()), int(runs.max())),
        interquartile_mean=aggregates.interquartile_mean(scores, **how) if pooled else None,
        median=aggregates.median(scores, **how),
        mean=aggregates.mean(scores, **how),
        optimality_gap=aggregates.optimality_gap(scores, **how),
        profile=aggregates.performance_profile(scores, taus, **how),
    )
