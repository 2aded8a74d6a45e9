"""Learning curves of runs, drawn beside published ones: returns of episodes that were played greedily."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

# Before pyplot chooses a backend: Agg needs no display.
matplotlib.use("Agg")
import matplotlib.pyplot as plt

from actors.config import EnvironmentConfig
from apexpert.errors import ApexpertError
from deploy.monitor.bands import BANDS, GREEDY, RETURN
from deploy.monitor.metrics import read_metrics
from deploy.reports.seeds.published import ENCODERS, NotPublished, published_curve
from deploy.reports.statistics import human_scores, score_key
from deploy.run.folder import METRICS

ENV_STEPS = "env_steps"
EVALUATION, EVALUATED_AT = "evaluation/return_mean", "evaluation/env_steps"
BAND_METRICS = frozenset(band.metric for band in BANDS)
NEEDED = BAND_METRICS | {RETURN, ENV_STEPS, EVALUATION, EVALUATED_AT}
LINE: Mapping[str, Any] = {"linewidth": 2}
DOTS: Mapping[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1}
DRAWN = ("rainbow", "dqn")
"""Published agents drawn beside a run."""
THIN: Mapping[str, Any] = {"linestyle": "-.", "linewidth": 1}


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
    style: Mapping[str, Any] = field(default_factory=lambda: LINE)
    comparable: bool = True
    """Whether it may be drawn beside published curves."""


def read_curves(run_path: Path) -> list[Curve]:
    """Return a run's curves that are comparable with published ones; CurveError if no episode has ended.

    They show its nearly greedy episodes and its evaluations, and all episodes where a version that did not
    distinguish them recorded them. A run with none of these gets the curve of all its episodes, which is not
    comparable: they explore too much.
    """
    # Keep only the names that are drawn: whole records of a long run take far more memory.
    records = [
        {name: record[name] for name in NEEDED if name in record}
        for record in read_metrics(run_path / METRICS)
    ]
    # A run that an older version began has records of both kinds (docs/decisions/0023).
    before_bands = [record for record in records if not BAND_METRICS & record.keys()]
    # Not by their `progress/num_frames`: older versions counted frames that no emulator had skipped.
    skip = _frames_per_env_step(run_path)
    greedy = _means(records, GREEDY.metric, skip)
    found = [
        Curve("all episodes", *_means(before_bands, RETURN, skip), style=THIN if greedy[0] else LINE),
        Curve(f"epsilon up to {GREEDY.highest_epsilon:g}", *greedy),
        Curve("evaluation", *_evaluations(records, skip), style=DOTS),
    ]
    if curves := [curve for curve in found if curve.frames]:
        return curves
    explorers = Curve("all episodes, exploring", *_means(records, RETURN, skip), style=THIN, comparable=False)
    if not explorers.frames:
        raise CurveError(f"{run_path}: no episode has ended yet, so there is no learning curve to draw")
    return [explorers]


def _means(records: Iterable[Mapping[str, float]], name: str, skip: int) -> tuple[list[float], list[float]]:
    """Return millions of frames, `skip` per env step, and values of a metric, where it was recorded."""
    there = [record for record in records if name in record and ENV_STEPS in record]
    return [record[ENV_STEPS] * skip / 1e6 for record in there], [record[name] for record in there]


def _evaluations(records: Iterable[Mapping[str, float]], skip: int) -> tuple[list[float], list[float]]:
    """Return millions of frames, `skip` per env step, and returns of the evaluations, each once."""
    # Every record after an evaluation repeats it, and none has its number of frames.
    found = {r[EVALUATED_AT]: r[EVALUATION] for r in records if EVALUATED_AT in r and EVALUATION in r}
    return [env_steps * skip / 1e6 for env_steps in found], list(found.values())


def dopamine_curves(game: str) -> dict[str, list[tuple[float, float]]]:
    """Return millions of frames and mean return over Dopamine's seeds, by agent; empty for unknown games."""
    try:
        curves = [published_curve(game, agent, encoder) for encoder in ENCODERS for agent in DRAWN]
    except NotPublished:
        return {}
    return {curve.label: curve.means for curve in curves}


def draw_learning_curve(run_path: Path) -> Path:
    """Draw one run's curves to `learning_curve.png` in its folder; CurveError when there are none."""
    return draw_curves([run_path], run_path / "learning_curve.png")


def draw_curves(run_paths: Sequence[Path], target: Path) -> Path:
    """Draw the curves of several runs into `target`; for one game, beside Dopamine's and the human score."""
    runs = {path: read_curves(path) for path in run_paths}
    games = [_game(path) for path in runs]
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for colour, (path, game) in enumerate(zip(runs, games, strict=True)):
        name = f"{path.name} ({game})" if len(set(games)) > 1 else path.name
        for curve in runs[path]:
            label = f"{name}: {curve.kind}"
            axes.plot(curve.frames, curve.returns, color=f"C{colour}", label=label, **curve.style)
    if len(set(games)) == 1:
        _draw_published(axes, games[0], [curve for curves in runs.values() for curve in curves], len(runs))
    axes.set_xlabel("emulator frames (millions)")
    axes.set_ylabel("return (mean of the last 100 episodes, or of an evaluation's)")
    axes.set_title(", ".join(sorted(set(games))))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(target, dpi=120)
    # pyplot keeps a figure, and its memory, until it is closed.
    plt.close(figure)
    return target


def _environment(run_path: Path) -> dict[str, Any]:
    config = json.loads((run_path / "config.json").read_text(encoding="utf-8"))
    environment: dict[str, Any] = config.get("environment", {})
    return environment


def _game(run_path: Path) -> str:
    environment = _environment(run_path)
    return str(environment.get("env") or environment.get("game", "unknown"))


def _frames_per_env_step(run_path: Path) -> int:
    known = {name: x for name, x in _environment(run_path).items() if name in ("env", "frame_skip")}
    return EnvironmentConfig(**known).frames_per_env_step


def _draw_published(axes: Any, game: str, own: Sequence[Curve], colour: int) -> None:
    """Draw Dopamine's curves a little past the runs' own end, and the random and human scores as lines.

    Dopamine's agents acted with epsilon 0.01: beside exploring runs alone their curves would mislead.
    """
    end = 1.5 * max(curve.frames[-1] for curve in own)
    if any(curve.comparable for curve in own):
        for number, (label, means) in enumerate(dopamine_curves(game).items(), colour):
            look = {"linestyle": "--", "marker": ".", "linewidth": 1, "color": f"C{number}"}
            if shown := [(frames, value) for frames, value in means if frames <= end]:
                axes.plot(*zip(*shown, strict=True), label=label, **look)
    draw_scores(axes, game)


def draw_scores(axes: Any, game: str) -> None:
    """Draw a game's random and human score as lines; nothing for a game without."""
    if scores := human_scores().get(score_key(game)):
        axes.axhline(scores["random"], color="gray", linestyle=":", linewidth=1, label="random")
        axes.axhline(scores["human"], color="black", linestyle=":", linewidth=1, label="human")
