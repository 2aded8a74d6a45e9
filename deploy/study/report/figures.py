"""Figures of a study's report: aggregates with their intervals, performance profiles and learning curves."""

from pathlib import Path
from typing import Any

import matplotlib

# Before pyplot chooses a backend: Agg needs no display.
matplotlib.use("Agg")
import matplotlib.pyplot as plt

from deploy.reports.statistics import Estimate
from deploy.study.statistics.comparison import AggregateTable

AGGREGATES = ("interquartile_mean", "median", "mean", "optimality_gap")
TITLES = {"optimality_gap": "optimality gap (lower is better)"}
DPI = 110


def draw_aggregates(table: AggregateTable, target: Path) -> Path:
    """Draw every arm's aggregates, a panel for each, with their 95 % intervals."""
    arms = list(table.arms)
    figure, panels = plt.subplots(
        1, len(AGGREGATES), figsize=(12, 1.4 + 0.35 * len(arms)), sharey=True, layout="constrained"
    )
    for axes, name in zip(panels, AGGREGATES, strict=True):
        for place, arm in enumerate(arms):
            _draw_estimate(axes, place, getattr(table.arms[arm], name))
        axes.set_title(TITLES.get(name, name.replace("_", " ")), fontsize=10)
        axes.grid(axis="x", alpha=0.3)
        axes.margins(y=0.5 / len(arms))
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].invert_yaxis()
    figure.supxlabel("human-normalised score; lines: 95 % interval over seeds", fontsize=9)
    return _saved(figure, target)


def _draw_estimate(axes: Any, place: int, estimate: Estimate | None) -> None:
    if estimate is None:
        return
    if estimate.bounds:
        axes.plot(estimate.bounds, [place, place], color=f"C{place % 10}", linewidth=6, alpha=0.35)
    axes.plot([estimate.value], [place], marker="o", color=f"C{place % 10}")


def draw_profiles(table: AggregateTable, target: Path) -> Path:
    """Draw the share of runs above each score, with the 95 % interval of each point by itself."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for number, (arm, summary) in enumerate(table.arms.items()):
        shares = [estimate.value for estimate in summary.profile]
        bounds = [estimate.bounds or [estimate.value] * 2 for estimate in summary.profile]
        low, high = zip(*bounds, strict=True)
        axes.plot(table.taus, shares, color=f"C{number % 10}", label=arm)
        axes.fill_between(table.taus, low, high, color=f"C{number % 10}", alpha=0.2, linewidth=0)
    axes.set_xlabel("human-normalised score")
    axes.set_ylabel("share of runs above it")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return _saved(figure, target)


def _saved(figure: Any, target: Path) -> Path:
    figure.savefig(target, dpi=DPI)
    # pyplot keeps a figure, and its memory, until it is closed.
    plt.close(figure)
    return target
