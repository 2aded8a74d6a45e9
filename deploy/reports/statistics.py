"""Scores as the field reports them: raw and human-normalised, with bootstrap intervals."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A statistic and its 95 % percentile-bootstrap interval.

    Where each resample gives the same, as of equal values or of a single one, there is no interval: one of no
    width would claim that further games end alike.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def bounds(self) -> list[float] | None:
        """Low and high, as in a report; None without an interval."""
        return None if self.low is None or self.high is None else [self.low, self.high]


@dataclass(frozen=True)
class ScoreSummary:
    """Summary of whole episodes' returns; normalised fields are None for a game without human score."""

    episodes: int
    mean: Estimate
    median: Estimate
    human_normalised_mean: Estimate | None
    human_normalised_median: Estimate | None


def score_key(game: str) -> str:
    """Return the spelling of the score tables: lower case without separators (`ms_pacman` is `mspacman`)."""
    return "".join(c for c in game.lower() if c.isalnum())


def human_scores() -> dict[str, dict[str, float]]:
    """Return random and human score of each game, as tabulated by Dopamine."""
    text = (
        resources.files("deploy.reports").joinpath("data/atari_human_scores.json").read_text(encoding="utf-8")
    )
    scores: dict[str, dict[str, float]] = json.loads(text)["games"]
    return scores


def human_normalised(score: float, game: str) -> float | None:
    """Return (score - random) / (human - random), or None for a game without a tabulated human score."""
    row = human_scores().get(score_key(game))
    return None if row is None else (score - row["random"]) / (row["human"] - row["random"])


def summarise(returns: Sequence[float], game: str, *, seed: int = 0) -> ScoreSummary:
    """Return mean and median with 95 % intervals (10,000 bootstrap resamples); ValueError when empty."""
    if not returns:
        raise ValueError("no finished episode to summarise")
    values = np.asarray(returns, dtype=np.float64)
    mean, median = float(values.mean()), float(np.median(values))
    raw = _interval(values, np.mean, mean, seed), _interval(values, np.median, median, seed)
    return ScoreSummary(len(values), *raw, *(_human_normalised(interval, game) for interval in raw))


def _human_normalised(interval: Estimate, game: str) -> Estimate | None:
    """Return the interval on the normalised scale: normalising is linear."""
    value = human_normalised(interval.value, game)
    if value is None:
        return None
    return Estimate(value, *(human_normalised(bound, game) for bound in interval.bounds or ()))


def _interval(values: np.ndarray, statistic: object, value: float, seed: int) -> Estimate:
    if np.ptp(values) == 0.0:  # scipy would warn.
        return Estimate(value)
    # A fixed seed, so that the same returns always give the same interval.
    found = stats.bootstrap(
        (values,), statistic, n_resamples=10_000, method="percentile", rng=np.random.default_rng(seed)
    )
    low, high = (float(bound) for bound in found.confidence_interval)
    return Estimate(value, low, high) if low < high else Estimate(value)
