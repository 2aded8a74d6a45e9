"""Learning curves of runs, drawn beside published ones."""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from deploy.monitor.metrics import read_metrics
from deploy.reports.statistics import human_scores, score_key

RETURN = "episode/return_mean_100"


class CurveError(Exception):
    """A run has nothing to draw; the message is one line."""


def read_curve(run_path: Path) -> tuple[list[float], list[float]]:
    """Millions of emulator frames and mean returns (last 100 episodes) over a run; CurveError without any."""
    frames, returns = [], []
    for record in read_metrics(run_path / "metrics.jsonl"):
        if RETURN in record and "progress/num_frames" in record:
            frames.append(record["progress/num_frames"] / 1e6)
            returns.append(record[RETURN])
    if not frames:
        raise CurveError(f"{run_path}: no episode has ended yet, so there is no learning curve to draw")
    return frames, returns


def dopamine_curves(game: str) -> tuple[list[float], dict[str, list[float]]]:
    """Millions of frames, and returns by agent, as published by Dopamine; no agents for a game it lacks."""
    text = (
        resources.files("deploy.reports").joinpath("data/dopamine_baselines.json").read_text(encoding="utf-8")
    )
    data: dict[str, Any] = json.loads(text)
    return data["millions_of_frames"], data["games"].get(score_key(game), {})


def draw_learning_curve(run_path: Path) -> Path:
    """Draw one run's curve to `learning_curve.png` in its folder; CurveError when there is none."""
    return draw_curves([run_path], run_path / "learning_curve.png")


def draw_curves(run_paths: Sequence[Path], target: Path) -> Path:
    """Draw the curves of several runs into `target`; for one game, beside Dopamine's and the human score."""
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    games = [_game(path) for path in run_paths]
    furthest = 0.0
    for path, game in zip(run_paths, games, strict=True):
        frames, returns = read_curve(path)
        furthest = max(furthest, frames[-1])
        axes.plot(
            frames, returns, linewidth=2, label=f"{path.name} ({game})" if len(set(games)) > 1 else path.name
        )
    if len(set(games)) == 1:
        _draw_published(axes, games[0], furthest)
    axes.set_xlabel("emulator frames (millions)")
    axes.set_ylabel("return (mean of the last 100 episodes)")
    axes.set_title(", ".join(sorted(set(games))))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(target, dpi=120)
    plt.close(figure)
    return target


def _game(run_path: Path) -> str:
    config = json.loads((run_path / "config.json").read_text(encoding="utf-8"))
    environment = config.get("environment", {})
    return str(environment.get("env") or environment.get("game", "unknown"))


def _draw_published(axes: Any, game: str, furthest: float) -> None:
    """Dopamine's curves up to a little past the run's own end, and the random and human scores as lines."""
    frames, agents = dopamine_curves(game)
    shown = [f for f in frames if f <= furthest * 1.5]
    for agent, returns in agents.items():
        if shown:
            label = f"Dopamine {agent}"
            axes.plot(shown, returns[: len(shown)], linestyle="--", marker=".", linewidth=1, label=label)
    scores = human_scores().get(score_key(game))
    if scores:
        axes.axhline(scores["random"], color="gray", linestyle=":", linewidth=1, label="random")
        axes.axhline(scores["human"], color="black", linestyle=":", linewidth=1, label="human")
