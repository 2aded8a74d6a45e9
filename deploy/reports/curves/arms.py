"""The learning curves of arms: for each game the mean over an arm's seeds, with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from deploy.reports.curves.panels import draw_panels
from deploy.reports.curves.run_curves import (
    ALL_KIND,
    EXPLORING_KIND,
    GREEDY_KIND,
    Against,
    CurveError,
    RunCurves,
    read_run,
)
from deploy.reports.seeds.expectation import NOT_FOR_LEARNING
from deploy.run.checks import near_matches
from deploy.run.config import ConfigError, leaves
from deploy.run.folder import RunFolder

CONFIDENCE = 0.95
FEWEST = 3
"""Seeds from which on an interval is drawn: that of two is 9 times their distance and hides all else."""
POINTS = 200
"""Places along the axis at which the seeds' curves are averaged."""
EVERY_DIFFERENCE = "arm"
"""The value of `--group` that makes an arm of every combination of settings that differ."""
NO_ARM = NOT_FOR_LEARNING | {"run.preset", "environment.env"}
"""Settings that do not tell arms apart: seeds, games, names, and what does not change learning."""
KINDS = (GREEDY_KIND, ALL_KIND, EXPLORING_KIND)
"""Kinds of curves, the one to compare arms by first."""


@dataclass(frozen=True)
class ArmCurve:
    """The mean over one arm's runs of one game, along the part of the axis that all of them cover."""

    places: NDArray[np.float64]
    """(P,) along the axis: millions of frames, or hours."""
    mean: NDArray[np.float64]
    """(P,)"""
    half_width: NDArray[np.float64] | None
    """(P,) of the 95 % interval of the mean; None with fewer than three runs."""


def draw_arms(arms: Mapping[str, Sequence[Path]], target: Path, *, against: Against = "frames") -> Path:
    """Draw the arms' curves into `target`, one panel a game; return `target`.

    `arms` maps each arm's label to its run folders, of any games and seeds. Raises CurveError for a run
    without an episode that has ended, and for runs of one game that have no kind of curve in common: means of
    unlike episodes are not compared.
    """
    runs = {label: [read_run(path) for path in paths] for label, paths in arms.items()}
    everything = [run for own in runs.values() for run in own]
    labels = {label: f"{label}, {_count(own)}" for label, own in runs.items()}

    def draw(axes: Any, of_game: list[RunCurves]) -> str:
        kind = common_kind(of_game)
        for number, (label, own) in enumerate(runs.items()):
            if here := [run for run in own if any(run is other for other in of_game)]:
                _draw_arm(axes, here, kind, f"C{number % 10}", labels[label], against)
        return f"({kind})"

    note = f"thick: mean over seeds, from {FEWEST} on with its 95 % interval (Student's t); thin: single runs"
    return draw_panels(everything, target, draw, against=against, note=note)


def _count(runs: Sequence[RunCurves]) -> str:
    """Return how many seeds each game has; where games differ, fewest and most."""
    games = {run.game for run in runs}
    seeds = [len({run.seed for run in runs if run.game == game}) for game in games]
    few, many = min(seeds), max(seeds)
    return f"{few} seed{'s' * (few > 1)}" if few == many else f"{few} to {many} seeds"


def common_kind(runs: Sequence[RunCurves]) -> str:
    """Return the kind of curve that all these runs have; CurveError if there is none."""
    for kind in KINDS:
        if all(any(curve.kind == kind for curve in run.curves) for run in runs):
            return kind
    names = ", ".join(run.name for run in runs)
    raise CurveError(f"{names}: have no kind of episodes in common, such as those with a small epsilon")


def _draw_arm(
    axes: Any, runs: Sequence[RunCurves], kind: str, colour: str, label: str, against: Against
) -> None:
    lines = []
    for run in runs:
        curve = next(curve for curve in run.curves if curve.kind == kind)
        lines.append((run.along(curve.frames, against), curve.returns))
        axes.plot(*lines[-1], color=colour, linewidth=0.7, alpha=0.4)
    found = mean_of(lines)
    axes.plot(found.places, found.mean, color=colour, linewidth=2, label=label)
    if found.half_width is not None:
        low, high = found.mean - found.half_width, found.mean + found.half_width
        axes.fill_between(found.places, low, high, color=colour, alpha=0.2, linewidth=0)


def mean_of(lines: Sequence[tuple[Sequence[float], Sequence[float]]]) -> ArmCurve:
    """Return the mean of curves, each places and values, with the 95 % interval of the mean.

    Only where all of them are: otherwise the mean would jump where one ends. The interval is
    mean +- t(0.975, n - 1) * s / sqrt(n) over the n curves, at each place by itself. Curves without a common
    part have an empty mean.
    """
    first, last = max(places[0] for places, _ in lines), min(places[-1] for places, _ in lines)
    if first > last:
        return ArmCurve(np.zeros(0), np.zeros(0), None)
    places = np.linspace(first, last, POINTS)
    values = np.stack([np.interp(places, *line) for line in lines])
    count = len(lines)
    if count < FEWEST:
        return ArmCurve(places, values.mean(axis=0), None)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) / np.sqrt(count)
    return ArmCurve(places, values.mean(axis=0), reach * values.std(axis=0, ddof=1))


def group_runs(run_paths: Sequence[Path], by: str) -> dict[str, list[Path]]:
    """Return arms, label to run folders: runs with the same value of setting `by`, such as `network.head`.

    `arm` groups by every setting that differs, but for seed, game and what does not change learning. Raises
    ConfigError for an unknown setting, and for runs of which no setting differs.
    """
    columns = [leaves(RunFolder(path).load_config()) for path in run_paths]
    if by == EVERY_DIFFERENCE:
        names = [
            name
            for name in columns[0]
            if name not in NO_ARM and len({column[name] for column in columns}) > 1
        ]
        if not names:
            raise ConfigError(f"--group {by}: the runs differ in no setting but seed and game")
    else:
        names = [by.lstrip("-").replace("-", "_")]
        if names[0] not in columns[0]:
            near = near_matches(names[0], columns[0])
            raise ConfigError(f"--group {by}: no setting of that name{near or ', such as network.head'}")
    arms: dict[str, list[Path]] = {}
    for path, column in zip(run_paths, columns, strict=True):
        label = ", ".join(
            f"{name.partition('.')[2].replace('_', ' ')} {_shown(column[name])}" for name in names
        )
        arms.setdefault(label, []).append(path)
    return arms


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
