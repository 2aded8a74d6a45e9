"""Draws the diagnostics of runs over training as one picture."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from deploy.monitor.metrics import read_metrics
from deploy.reports.curves import CurveError
from deploy.run.folder import METRICS
from learner.diagnostics.files import array_files, read_arrays

PREFIX = "diagnostics/"
UPDATE, X = "diagnostics/update", "diagnostics/env_steps"
PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("dormant share (tau 0.025)", ("dormant_share/",)),
    ("feature norm", ("reference/feature_norm",)),
    ("srank of the features", ("srank", "reference/srank_0.01")),
    ("rank of the empirical NTK", ("entk_rank",)),
    ("combine share by expert", ("combine_share/",)),
    ("dispatch share by expert", ("dispatch_share/",)),
    ("entropy of dispatch and combine", ("dispatch_entropy", "combine_entropy")),
    ("gradient norm by expert", ("expert_grad_norm/",)),
    ("parameter norm", ("parameter_norm/",)),
    ("update norm", ("update_norm/",)),
    ("TD error", ("td_error_",)),
)
"""Title and names below `diagnostics/`; a name that ends in / or _ stands for all that begin with it."""
STYLES = ("-", "--", ":", "-.")


def draw_diagnostics(run_paths: Sequence[Path], target: Path) -> Path:
    """Draw every group of diagnostics of the runs, and the first run's newest NTK; CurveError without any."""
    runs = [(path, _records(path)) for path in run_paths]
    across, down = 4, -(-(len(PANELS) + 1) // 4)
    figure, grid = plt.subplots(down, across, figsize=(5 * across, 3.6 * down), layout="constrained")
    axes = list(itertools.chain.from_iterable(grid))
    for axis, (title, names) in zip(axes, PANELS, strict=False):
        _draw_panel(axis, title, names, runs)
    _draw_kernel(axes[len(PANELS)], run_paths[0])
    for axis in axes[len(PANELS) + 1 :]:
        axis.set_axis_off()
    labels = [path.name for path, _ in runs]
    if len(labels) > 1:
        labels = [f"{STYLES[i % 4]} {label}" for i, label in enumerate(labels)]
    figure.suptitle("   ".join(labels), fontsize=11)
    figure.savefig(target, dpi=100)
    plt.close(figure)
    return target


def _records(run_path: Path) -> list[dict[str, float]]:
    """Return the diagnoses of a run, in order, each update once."""
    # A resume may repeat a diagnosis: the later record counts.
    found = {r[UPDATE]: r for r in read_metrics(run_path / METRICS) if UPDATE in r}
    if not found:
        raise CurveError(
            f"{run_path.name} has no diagnostics yet (--learner.diagnostics-period is their period)"
        )
    return [found[update] for update in sorted(found)]


def _draw_panel(
    axis: Any, title: str, names: tuple[str, ...], runs: Sequence[tuple[Path, list[dict[str, float]]]]
) -> None:
    """Draw one group: a colour for each of its metrics, a line style for each run."""
    for index, (_, records) in enumerate(runs):
        shown = [name for name in records[-1] if belongs(name, names)]
        for colour, name in enumerate(shown):
            points = [(r[X] / 1e3, r[name]) for r in records if name in r]
            axis.plot(
                *zip(*points, strict=True),
                STYLES[index % len(STYLES)],
                marker="." if len(points) < 40 else None,
                color=f"C{colour % 10}",
                label=_short(name) if index == 0 and len(shown) > 1 else None,
            )
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("env steps (thousands)", fontsize=8)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7, ncols=2)
    if not axis.lines:
        axis.text(0.5, 0.5, "none in this network", ha="center", transform=axis.transAxes, color="gray")


def belongs(metric: str, names: tuple[str, ...]) -> bool:
    """Whether a metric belongs to a panel with these names."""
    name = metric.removeprefix(PREFIX)
    return name != metric and any(name.startswith(n) if n[-1] in "/_" else name == n for n in names)


def _short(metric: str) -> str:
    name = metric.removeprefix(PREFIX)
    return name.partition("/")[2] or name


def _draw_kernel(axis: Any, run_path: Path) -> None:
    """Draw the newest empirical NTK, scaled by its largest entry."""
    files = array_files(run_path)
    update = int(files[-1].stem.partition("-")[2]) if files else 0
    kernel = read_arrays(run_path, update).get("entk") if files else None
    if kernel is None or not kernel.size:
        axis.set_axis_off()
        return
    scale = abs(kernel).max() or 1.0
    # Symmetric limits, so that 0 is white, as in TensorBoard's picture (docs/diagnostics.md).
    axis.imshow(kernel / scale, cmap="RdBu_r", vmin=-1, vmax=1)
    axis.set_title(f"{run_path.name}: empirical NTK at update {update:,}", fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])
