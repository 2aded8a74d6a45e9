"""The published curves of Dopamine's agents, every seed, and the interval for one more seed."""

import functools
import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from apexpert.errors import ApexpertError
from deploy.reports.statistics import score_key
from deploy.run.checks import near_matches

WINDOW = 250_000
"""Env steps of one published iteration: 1M frames."""
FRAME_SKIP = 4
"""Emulator frames per env step of the published agents."""
AGENTS = {"dqn": "DQN", "c51": "C51", "rainbow": "Rainbow", "qr-dqn": "QR-DQN", "iqn": "IQN"}
"""Published agents by the value of `--agent`."""
ALIASES = {"quantile": "qr-dqn"}
ENCODERS = {"nature": "CNN", "impala": "Impala"}
"""Published encoders by the value of `--network.encoder`."""
CONFIDENCE = 0.99
FLOOR = 0.05
"""Minimum half-width: published values are rounded to 0.1."""


class NotPublished(ApexpertError):
    """There are no published seeds of this game or agent; the message is one line."""


@dataclass(frozen=True)
class PredictionInterval:
    """Where a value of one more seed lies with 99 % confidence, if that seed is like the others."""

    mean: float
    half_width: float

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half_width

    def verdict(self, value: float) -> str:
        """Return `inside` (ends included), `above` or `below`."""
        if abs(value - self.mean) <= self.half_width:
            return "inside"
        return "above" if value > self.mean else "below"


@dataclass(frozen=True)
class PublishedCurve:
    """One agent's seeds on one game."""

    game: str
    agent: str
    encoder: str
    iterations: tuple[int, ...]
    """Iterations of the windows kept here: the first 20, then every fifth."""
    values: tuple[tuple[float, ...], ...]
    """Mean return of each seed, one row per iteration; the seeds have the same order in every row."""

    @property
    def label(self) -> str:
        """Name in pictures and tables."""
        return f"Dopamine {self.agent} ({self.encoder})"

    @property
    def means(self) -> list[tuple[float, float]]:
        """Millions of frames at each kept window's end, and the seeds' mean return in it."""
        pairs = zip(self.iterations, self.values, strict=True)
        return [(window + 1.0, float(np.mean(row))) for window, row in pairs]

    def seeds(self, window: int) -> tuple[float, ...]:
        """Return the seeds' returns in that window, 0 for the first; empty where none are kept."""
        return dict(zip(self.iterations, self.values, strict=True)).get(window, ())

    def seeds_over(self, windows: Sequence[int]) -> tuple[float, ...]:
        """Return each seed's mean over these windows; empty where a seed or a window is missing."""
        rows = [self.seeds(window) for window in windows]
        if not rows or len({len(row) for row in rows}) != 1:
            return ()
        return tuple(float(value) for value in np.mean(rows, axis=0))


def prediction_interval(
    seeds: Sequence[float], own_error: float = 0.0, own_freedom: float = math.inf
) -> PredictionInterval | None:
    """Return the 99 % prediction interval for one more seed; None with fewer than two seeds.

    For n seeds of mean m and standard deviation s it is m +- t(0.995, n - 1) * s * sqrt(1 + 1/n), which is
    5.04 s for five; at least `FLOOR`. `own_error`, the standard error of the value to be judged, widens it to
    sqrt(half^2 + (t(0.995, own_freedom) * own_error)^2): the seeds' spread already includes the error of
    whole windows, so this matters where few episodes ended. It uses a t and not a normal quantile, because
    the error is estimated from those few episodes as well.
    """
    if len(seeds) < 2:
        return None
    half = max(FLOOR, factor(len(seeds)) * float(np.std(seeds, ddof=1)))
    own = _student(own_freedom) * own_error if own_error else 0.0
    # The two errors are independent, so their squares add up.
    return PredictionInterval(float(np.mean(seeds)), math.hypot(half, own))


def factor(num_seeds: int) -> float:
    """Return how many standard deviations from the mean of the seeds the interval for one more extends."""
    return _student(num_seeds - 1) * math.sqrt(1 + 1 / num_seeds)


def _student(freedom: float) -> float:
    # Imported here: a run's console shows the curves alone and should not wait for scipy.
    from scipy import stats

    # Two-sided: half of what the confidence leaves lies beyond each end.
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def agent_named(word: str) -> str:
    """Return the key of `AGENTS` that a user means by `word`; raise NotPublished when there is none."""
    key = ALIASES.get(word.lower(), word.lower())
    if key not in AGENTS:
        allowed = ", ".join([*AGENTS, *ALIASES])
        raise NotPublished(f"--agent {word}: no published agent; allowed are {allowed}")
    return key


def published_curve(game: str, agent: str, encoder: str = "nature") -> PublishedCurve:
    """Return the seeds of that game and agent (a key of `AGENTS`, and one of `ENCODERS`).

    Raises NotPublished for a game without any.
    """
    data = _data()
    if score_key(game) not in data["games"]:
        near = near_matches(score_key(game), data["games"])
        raise NotPublished(f"{game}: no published seeds of this game{near}")
    rows = data["games"][score_key(game)][ENCODERS[encoder]][AGENTS[agent]]
    values = tuple(tuple(row) for row in rows)
    return PublishedCurve(game, AGENTS[agent], ENCODERS[encoder], tuple(data["iterations"]), values)


def published_agents(game: str) -> list[str]:
    """Return the agents with published seeds of that game, with an encoder of `ENCODERS`; empty for none."""
    found = _data()["games"].get(score_key(game), {})
    return [
        f"{name} ({encoder})"
        for encoder in ENCODERS.values()
        for name in AGENTS.values()
        if name in found.get(encoder, {})
    ]


@functools.cache
def _data() -> dict[str, Any]:
    """Load the data; its `source` says where it is from and what the numbers are."""
    packed = resources.files("deploy.reports").joinpath("data/dopamine_seeds.json.gz").read_bytes()
    data: dict[str, Any] = json.loads(gzip.decompress(packed))
    return data
