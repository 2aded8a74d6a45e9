"""Bands of episodes by exploration: a return describes the policy only where it acts greedily."""

import math
from collections.abc import Mapping
from typing import NamedTuple

RETURN = "episode/return_mean_100"
"""Mean return of the last 100 episodes in all bands together."""


class Band(NamedTuple):
    """Episodes that explored alike; `name` is the suffix of the metric's name."""

    name: str
    highest_epsilon: float

    @property
    def metric(self) -> str:
        """Name of the mean return of its last 100 episodes."""
        return f"{RETURN}_{self.name}"


GREEDY = Band("greedy", 0.05)
BANDS = (GREEDY, Band("exploring", 0.5), Band("random", math.inf))
"""By rising epsilon; each begins above the one before. The bounds are explained in docs/decisions/0023."""


def band_of(epsilon: float) -> Band:
    """Return the band of an episode whose last step acted with `epsilon`."""
    return next(band for band in BANDS if epsilon <= band.highest_epsilon)


def last_return(metrics: Mapping[str, float]) -> float | None:
    """Return the mean of the last 100 nearly greedy episodes, else of all; None before any has ended."""
    return metrics.get(GREEDY.metric, metrics.get(RETURN))


def greedy_return(metrics: Mapping[str, float], form: str) -> str:
    """Format the nearly greedy band's return; "" if there is none or it looks the same as that of all."""
    if GREEDY.metric not in metrics:
        return ""
    shown = format(metrics[GREEDY.metric], form)
    return "" if shown == format(metrics.get(RETURN, math.nan), form) else shown
