"""Compares a run's returns, in windows of 250,000 env steps, with published seeds of the same agent."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.reports.seeds.episodes import RunEpisodes
from deploy.reports.seeds.published import WINDOW, PredictionInterval, PublishedCurve, prediction_interval


@dataclass(frozen=True)
class Compared:
    """One mean return of the run beside the published seeds'."""

    mean: float | None
    """None without any episode."""
    error: float
    """Its standard error; NaN with fewer than two episodes."""
    seeds: tuple[float, ...]
    interval: PredictionInterval | None
    """Already widened by `error`; None where that is unknown, or nothing is published."""

    @property
    def verdict(self) -> str:
        """`inside`, `above`, `below`, or empty where that cannot be said."""
        return "" if self.mean is None or self.interval is None else self.interval.verdict(self.mean)


@dataclass(frozen=True)
class WindowRow:
    """The episodes that ended in one window of 250,000 env steps."""

    window: int
    """0 for the first."""
    episodes: int
    complete: bool
    """Whether the run has passed the window's end, and its record began before the window did."""
    compared: Compared

    @property
    def verdict(self) -> str:
        """The comparison's verdict for a complete window; else empty."""
        return self.compared.verdict if self.complete else ""


@dataclass(frozen=True)
class Bands:
    """A run beside the published seeds."""

    curve: PublishedCurve
    rows: list[WindowRow]
    overall: Compared | None
    """The mean over the complete windows; None where a window or a seed is missing."""


def window_of(env_steps: int, window: int = WINDOW) -> int:
    """Return the number of the window that contains this env step: 1 to `window` are in the first, 0."""
    return max(0, env_steps - 1) // window


def compare(run: RunEpisodes, curve: PublishedCurve) -> Bands:
    """Compare every window up to the last in which an episode ended, or that the run has passed."""
    by_window: dict[int, list[float]] = defaultdict(list)
    for episode in run.kept:
        by_window[window_of(episode.env_steps)].append(episode.return_)
    passed = run.env_steps // WINDOW
    number = max([passed, *(window + 1 for window in by_window)])
    rows = [
        WindowRow(
            window,
            len(by_window[window]),
            run.first_env_steps <= window * WINDOW and window < passed,
            compare_window(by_window[window], curve.seeds(window)),
        )
        for window in range(run.first_env_steps // WINDOW, number)
    ]
    return Bands(curve, rows, _overall([row for row in rows if row.complete], curve))


def compare_window(returns: Sequence[float], seeds: tuple[float, ...]) -> Compared:
    """Compare the mean of returns with the seeds'; a single episode has no error, and so no interval."""
    if not returns:
        return Compared(None, math.nan, seeds, None)
    mean = float(np.mean(returns))
    if len(returns) < 2:
        return Compared(mean, math.nan, seeds, None)
    # The standard error s / sqrt(n), with s over n - 1 as for the seeds (docs/bands.md).
    error = float(np.std(returns, ddof=1)) / math.sqrt(len(returns))
    return Compared(mean, error, seeds, prediction_interval(seeds, error, len(returns) - 1))


def _overall(rows: Sequence[WindowRow], curve: PublishedCurve) -> Compared | None:
    """Compare the mean of the windows' means with each seed's, with its error from theirs.

    A seed that is ahead stays ahead, so the interval is made of the seeds' own means, not of the windows'.
    """
    seeds = curve.seeds_over([row.window for row in rows])
    means = [row.compared.mean for row in rows if row.compared.mean is not None]
    errors = [row.compared.error for row in rows]
    if not seeds or len(means) < len(rows) or not all(map(math.isfinite, errors)):
        return None
    # Errors of different windows are independent, so their variances add up.
    error = math.sqrt(sum(error**2 for error in errors)) / len(rows)
    # The error of n episodes has n - 1 degrees of freedom, and these add up as well.
    freedom = sum(row.episodes - 1 for row in rows)
    return Compared(float(np.mean(means)), error, seeds, prediction_interval(seeds, error, freedom))


def document(name: str, run: RunEpisodes, bands: Bands) -> dict[str, Any]:
    """Return the comparison, JSON-able; an unknown number is None."""
    return {
        "run": name,
        "game": bands.curve.game,
        "published": bands.curve.label,
        "windows": [_row(row) for row in bands.rows],
        "overall": None if bands.overall is None else compared_document(bands.overall),
        "episodes": len(run.kept),
        "dropped": run.dropped,
        "cut_by_resume": run.cut.by_resume,
        "cut_by_end": run.cut.by_end,
        "first_env_steps": run.first_env_steps,
        "env_steps": run.env_steps,
        "ended": run.ended,
    }


def _row(row: WindowRow) -> dict[str, Any]:
    place = {"env_steps": [row.window * WINDOW, (row.window + 1) * WINDOW], "complete": row.complete}
    return place | {"episodes": row.episodes} | compared_document(row.compared) | {"verdict": row.verdict}


def compared_document(compared: Compared) -> dict[str, Any]:
    """Return one comparison, JSON-able."""
    seeds, interval = compared.seeds, compared.interval
    return {
        "mean": compared.mean,
        "standard_error": compared.error if math.isfinite(compared.error) else None,
        "seeds": list(seeds),
        "seeds_mean": float(np.mean(seeds)) if seeds else None,
        "interval": None if interval is None else [interval.low, interval.high],
        "verdict": compared.verdict,
    }
