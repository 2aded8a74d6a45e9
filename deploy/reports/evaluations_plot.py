"""Draws the evaluations of a run's networks over its training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

# Before pyplot chooses a backend: Agg needs no display.
matplotlib.use("Agg")
import matplotlib.pyplot as plt

from deploy.reports.curves.published_bands import draw_scores
from deploy.run.config import Config


def draw_evaluations(name: str, reports: Sequence[Mapping[str, Any]], target: Path, config: Config) -> Path:
    """Draw mean returns with their intervals against env steps into `target`, a PNG; return `target`.

    `reports` are rows of `EvaluationReport.to_json`, by update.
    """
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    steps = [report["env_steps"] for report in reports]
    means = [report["return_mean"] for report in reports]
    # A mean without an interval is drawn without bars.
    bounds = [report["return_mean_interval"] or (report["return_mean"],) * 2 for report in reports]
    bars = [[abs(mean - bound[side]) for mean, bound in zip(means, bounds, strict=True)] for side in (0, 1)]
    label = f"{name}: {reports[0]['episodes']} games each, 95 % interval over games"
    axes.errorbar(steps, means, yerr=bars, marker="o", capsize=3, label=label)
    draw_scores(axes, config.game_name)
    axes.set_xlabel("env steps")
    axes.set_ylabel(f"mean return with epsilon {reports[0]['epsilon']:g}")
    axes.set_title(config.game_name)
    axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(target, dpi=120)
    plt.close(figure)
    return target
