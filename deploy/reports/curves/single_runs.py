"""The learning curves of single runs: means as lines, episodes as faint dots, evaluations as points."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.reports.curves.panels import draw_panels
from deploy.reports.curves.run_curves import (
    ALL_KIND,
    EVALUATIONS,
    GREEDY_KIND,
    Against,
    Curve,
    RunCurves,
    read_run,
)

LINE: Mapping[str, Any] = {"linewidth": 2}
THIN: Mapping[str, Any] = {"linestyle": "-.", "linewidth": 1}
POINTS: Mapping[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1}
FAINT: Mapping[str, Any] = {"linestyle": "", "marker": ".", "markersize": 4, "alpha": 0.3}
NOTE = "lines: mean of the last 100 episodes; dots: single episodes"


def draw_learning_curve(run_path: Path) -> Path:
    """Draw one run's curves to `learning_curve.png` in its folder; CurveError when there are none."""
    return draw_curves([run_path], run_path / "learning_curve.png")


def draw_curves(run_paths: Sequence[Path], target: Path, *, against: Against = "frames") -> Path:
    """Draw the curves of runs into `target`, one panel a game, beside published seeds and human scores.

    Raises CurveError for a run without an episode that has ended, or whose hours are unknown.
    """
    runs = [read_run(path) for path in run_paths]

    def draw(axes: Any, own: list[RunCurves]) -> str:
        for run in own:
            for curve in run.curves:
                _draw_curve(axes, run, curve, f"C{runs.index(run) % 10}", against)
        return ""

    return draw_panels(runs, target, draw, against=against, note=NOTE)


def _draw_curve(axes: Any, run: RunCurves, curve: Curve, colour: str, against: Against) -> None:
    episodes = run.episodes_of(curve)
    label = f"{run.name}: {curve.kind}"
    if curve.kind == EVALUATIONS:
        label += f", {len(curve.frames)} times"
    elif episodes:
        label += f", {len(episodes):,} episodes"
    axes.plot(
        run.along(curve.frames, against), curve.returns, color=colour, label=label, **_style(run, curve)
    )
    places = run.along(run.frames_of(episodes), against)
    axes.plot(places, [episode.return_ for episode in episodes], color=colour, **FAINT)


def _style(run: RunCurves, curve: Curve) -> Mapping[str, Any]:
    if curve.kind == EVALUATIONS:
        return POINTS
    has_greedy = any(other.kind == GREEDY_KIND for other in run.curves)
    return LINE if curve.kind == GREEDY_KIND or (curve.kind == ALL_KIND and not has_greedy) else THIN
