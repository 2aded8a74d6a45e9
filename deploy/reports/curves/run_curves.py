"""The learning curves of a run, against emulator frames and hours, and the single episodes in them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from actors.config import EnvironmentConfig
from apexpert.errors import ApexpertError
from deploy.monitor.bands import BANDS, GREEDY, RETURN
from deploy.monitor.metrics import read_metrics
from deploy.reports.seeds.episodes import EpisodeRecord, keep, read_episodes
from deploy.run.folder import LEGS, METRICS, RunFolder

Against = Literal["frames", "hours"]
"""What the horizontal axis of a learning curve counts."""

ENV_STEPS, SECONDS = "env_steps", "progress/seconds"
EVALUATION, EVALUATED_AT = "evaluation/return_mean", "evaluation/env_steps"
BAND_METRICS = frozenset(band.metric for band in BANDS)
NEEDED = BAND_METRICS | {RETURN, ENV_STEPS, SECONDS, EVALUATION, EVALUATED_AT}
GREEDY_KIND = f"epsilon up to {GREEDY.highest_epsilon:g}"
ALL_KIND, EXPLORING_KIND, EVALUATIONS = "all episodes", "all episodes, exploring", "evaluation"


class CurveError(ApexpertError):
    """A run has nothing to draw; the message is one line."""


@dataclass(frozen=True)
class Curve:
    """Returns over a run, all of one kind."""

    kind: str
    """Which episodes the returns are of, as shown in the legend."""
    frames: list[float]
    """Millions of emulator frames."""
    returns: list[float]
    comparable: bool = True
    """Whether it may be drawn beside published curves."""


@dataclass(frozen=True)
class RunCurves:
    """A run's curves, and what its axes and labels need."""

    name: str
    game: str
    encoder: str
    seed: int
    curves: list[Curve]
    episodes: list[EpisodeRecord]
    """Episodes on record that the network on record played; empty for a run of an older version."""
    frames_per_env_step: int
    clock: tuple[list[float], list[float]]
    """Millions of frames, and hours of training at that point; both empty where no time is on record."""

    def along(self, frames: Sequence[float], against: Against) -> list[float]:
        """Return places on the axis for millions of frames; CurveError where the run's time is unknown."""
        if against == "frames":
            return list(frames)
        if not self.clock[0]:
            raise CurveError(f"{self.name}: an older version recorded no time; draw it against frames")
        return [float(hours) for hours in np.interp(frames, *self.clock)]

    def episodes_of(self, curve: Curve) -> list[EpisodeRecord]:
        """Return the single episodes on record that a curve is the mean of."""
        if curve.kind == EXPLORING_KIND:
            return self.episodes
        if curve.kind != GREEDY_KIND:
            return []
        return [
            episode
            for episode in self.episodes
            if episode.epsilon is not None and episode.epsilon <= GREEDY.highest_epsilon
        ]

    def frames_of(self, episodes: Iterable[EpisodeRecord]) -> list[float]:
        """Return millions of frames at the ends of episodes."""
        return [episode.env_steps * self.frames_per_env_step / 1e6 for episode in episodes]


def read_run(run_path: Path) -> RunCurves:
    """Return a run's curves that are comparable with published ones; CurveError if no episode has ended.

    They show its nearly greedy episodes and its evaluations, and all episodes where a version that did not
    distinguish them recorded them. A run with none of these gets the curve of all its episodes, which is not
    comparable: they explore too much.
    """
    config = json.loads((run_path / "config.json").read_text(encoding="utf-8"))
    environment = config.get("environment", {})
    # Not `progress/num_frames`: older versions counted frames that no emulator had skipped.
    known = {name: x for name, x in environment.items() if name in ("env", "frame_skip")}
    skip = EnvironmentConfig(**known).frames_per_env_step
    records = _surviving(
        # Keep only the names that are drawn: whole records of a long run take far more memory.
        {name: record[name] for name in NEEDED if name in record}
        for record in read_metrics(run_path / METRICS)
    )
    folder = RunFolder(run_path)
    starts = [int(leg["env_steps"]) for leg in folder.read_json(LEGS, [])]
    return RunCurves(
        name=run_path.name,
        game=str(environment.get("env") or environment.get("game", "unknown")),
        encoder=str(config.get("network", {}).get("encoder", "nature")),
        seed=int(config.get("run", {}).get("seed", 0)),
        curves=_curves(run_path, records, skip),
        episodes=keep(read_episodes(folder.episodes_path), starts),
        frames_per_env_step=skip,
        clock=_clock(records, skip),
    )


def _surviving(records: Iterable[dict[str, float]]) -> list[dict[str, float]]:
    """Drop records beyond the checkpoint that a resume went back to: they are of a network that is gone."""
    kept: list[dict[str, float]] = []
    lowest = math.inf
    # A record with one name alone is a diagnosis', made at an earlier env step than its neighbours.
    for record in reversed([record for record in records if len(record) > 1]):
        if record.get(ENV_STEPS, lowest) <= lowest:
            kept.append(record)
            lowest = record.get(ENV_STEPS, lowest)
    return kept[::-1]


def _curves(run_path: Path, records: Sequence[Mapping[str, float]], skip: int) -> list[Curve]:
    # A run that an older version began has records of both kinds (docs/decisions/0023).
    before_bands = [record for record in records if not BAND_METRICS & record.keys()]
    found = [
        Curve(ALL_KIND, *_means(before_bands, RETURN, skip)),
        Curve(GREEDY_KIND, *_means(records, GREEDY.metric, skip)),
        Curve(EVALUATIONS, *_evaluations(records, skip)),
    ]
    if curves := [curve for curve in found if curve.frames]:
        return curves
    explorers = Curve(EXPLORING_KIND, *_means(records, RETURN, skip), comparable=False)
    if not explorers.frames:
        raise CurveError(f"{run_path}: no episode has ended yet, so there is no learning curve to draw")
    return [explorers]


def _means(records: Iterable[Mapping[str, float]], name: str, skip: int) -> tuple[list[float], list[float]]:
    """Return millions of frames, `skip` per env step, and values of a metric, where it was recorded."""
    there = [record for record in records if name in record and ENV_STEPS in record]
    return [record[ENV_STEPS] * skip / 1e6 for record in there], [record[name] for record in there]


def _clock(records: Iterable[Mapping[str, float]], skip: int) -> tuple[list[float], list[float]]:
    frames, seconds = _means(records, SECONDS, skip)
    return frames, [value / 3600 for value in seconds]


def _evaluations(records: Iterable[Mapping[str, float]], skip: int) -> tuple[list[float], list[float]]:
    """Return millions of frames, `skip` per env step, and returns of the evaluations, each once."""
    # Every record after an evaluation repeats it, and none has its number of frames.
    found = {r[EVALUATED_AT]: r[EVALUATION] for r in records if EVALUATED_AT in r and EVALUATION in r}
    return [env_steps * skip / 1e6 for env_steps in found], list(found.values())
