"""The power of a comparison with published seeds: in which windows a failing run would fall outside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.reports.seeds.published import WINDOW, PredictionInterval, PublishedCurve, prediction_interval


@dataclass(frozen=True)
class Detection:
    """How two failing runs compare with the interval for one more seed, in one window or over several."""

    interval: PredictionInterval
    frozen: str
    """Verdict on a run that stays at the seeds' mean of the first window."""
    half: str
    """Verdict on a run with half the gain over it: first + (mean - first) / 2."""

    @classmethod
    def of(cls, seeds: Sequence[float], first: float) -> "Detection | None":
        """Compare by the seeds' values and their mean in the first window; None with under two seeds."""
        interval = prediction_interval(seeds)
        if interval is None:
            return None
        return cls(interval, interval.verdict(first), interval.verdict((first + interval.mean) / 2))


@dataclass(frozen=True)
class PowerRow:
    """One window, and all windows up to it."""

    window: int
    """0 for the first."""
    alone: Detection | None
    overall: Detection | None
    """Of the mean over the windows up to this one; None where a seed is missing in one."""


def power(curve: PublishedCurve, windows: int) -> list[PowerRow]:
    """Return one row per window, for those of the first `windows` whose seeds are kept here.

    The failing runs have no error of their own; a real run, with a wider interval, is detected a little less.
    """
    # Only every fifth window is kept after the first 20 (docs/bands.md).
    numbers = [window for window in curve.iterations if window < windows]
    first = float(np.mean(curve.seeds(numbers[0])))
    return [
        PowerRow(
            window,
            Detection.of(curve.seeds(window), first),
            Detection.of(curve.seeds_over(numbers[: place + 1]), first),
        )
        for place, window in enumerate(numbers)
    ]


def document(curve: PublishedCurve, rows: Sequence[PowerRow]) -> dict[str, Any]:
    """Return the rows, JSON-able."""
    return {
        "game": curve.game,
        "published": curve.label,
        "windows": [
            {
                "env_steps": [row.window * WINDOW, (row.window + 1) * WINDOW],
                "seeds": list(curve.seeds(row.window)),
                "window": _detection(row.alone),
                "overall": _detection(row.overall),
            }
            for row in rows
        ],
    }


def _detection(found: Detection | None) -> dict[str, Any] | None:
    if found is None:
        return None
    interval = [found.interval.low, found.interval.high]
    return {"mean": found.interval.mean, "interval": interval, "frozen": found.frozen, "half": found.half}
