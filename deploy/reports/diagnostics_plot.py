"""Draws the diagnostics of runs over training as one picture."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from deploy.monitor.events import cosines
from deploy.monitor.metrics import read_metrics
from deploy.reports.curves.run_curves import CurveError
from deploy.run.folder import METRICS
from learner.diagnostics.files import array_files, read_arrays

PREFIX = "diagnostics/"
UPDATE, X = "diagnostics/update", "diagnostics/env_steps"
ACROSS = 4
ROUNDING = 1e-4
"""Values that differ by less than this share of their size are one value and rounding."""


@dataclass(frozen=True)
class Panel:
    """One group of diagnostics in axes of its own."""

    title: str
    names: tuple[str, ...]
    """Names below `diagnostics/`; a name that ends in / or _ stands for all that begin with it."""
    scale: Literal["share", "from zero", "free"] = "from zero"
    """Of the vertical axis: from 0 to 1, from 0 to above the largest value, or as the values are."""


PANELS = (
    Panel("dormant share (tau 0.025)", ("dormant_share/",), "share"),
    Panel("norm of the features' variances\n(feature_norm of the paper's code)", ("reference/feature_norm",)),
    Panel("srank of the features (up to 32 states)", ("srank",)),
    Panel("srank of the features (up to 512 states)", ("srank_wide", "srank_centred")),
    Panel(
        "singular values above 1 % of the largest\n(srank_0.01 of the paper's code)",
        ("reference/srank_0.01",),
    ),
    Panel("srank of the empirical NTK", ("entk_rank",)),
    Panel("combine share by expert", ("combine_share/",), "share"),
    Panel("dispatch share by expert", ("dispatch_share/",), "share"),
    Panel("entropy of dispatch and combine", ("dispatch_entropy", "combine_entropy"), "share"),
    Panel("gradient norm by expert", ("expert_grad_norm/",)),
    Panel("parameter norm", ("parameter_norm/",)),
    Panel("update norm", ("update_norm/",)),
    Panel("TD error", ("td_error_",), "free"),
)
STYLES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")

Runs = Sequence[tuple[Path, list[dict[str, float]]]]
"""Run folders with their diagnoses."""


def draw_diagnostics(run_paths: Sequence[Path], target: Path) -> Path:
    """Draw every group of diagnostics of the runs, and each run's newest NTK; CurveError without any."""
    runs = [(path, read_diagnoses(path)) for path in run_paths]
    kernels = [(path, *found) for path, _ in runs if (found := _newest_kernel(path)) is not None]
    down = -(-(len(PANELS) + len(kernels)) // ACROSS)
    figure, grid = plt.subplots(down, ACROSS, figsize=(4.6 * ACROSS, 3.5 * down), layout="constrained")
    axes: Iterator[Any] = iter(list(itertools.chain.from_iterable(grid)))
    for panel in PANELS:
        _draw_panel(next(axes), panel, runs)
    for path, update, kernel in kernels:
        _draw_kernel(next(axes), path.name, update, kernel)
    for axis in axes:
        axis.set_axis_off()
    handles = [
        Line2D([], [], color="black", linestyle=STYLES[index % len(STYLES)], label=path.name)
        for index, (path, _) in enumerate(runs)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=11, frameon=False)
    figure.savefig(target, dpi=100)
    plt.close(figure)
    return target


def read_diagnoses(run_path: Path) -> list[dict[str, float]]:
    """Return the diagnoses of a run, in order, each update once."""
    # A resume may repeat a diagnosis: the later record counts.
    found = {r[UPDATE]: r for r in read_metrics(run_path / METRICS) if UPDATE in r}
    if not found:
        raise CurveError(
            f"{run_path.name} has no diagnostics yet (apexpert train --learner.diagnostics-period)"
        )
    return [found[update] for update in sorted(found)]


def _draw_panel(axis: Any, panel: Panel, runs: Runs) -> None:
    """Draw one group: a colour for each of its metrics, whichever runs have it, a line style for each run."""
    found = dict.fromkeys(name for _, records in runs for name in records[-1] if belongs(name, panel.names))
    # Past the decimal colours begin again: a line is then told by its place in the legend.
    colours = {name: f"C{place % 10}" for place, name in enumerate(sorted(found))}
    for (_, records), style in zip(runs, itertools.cycle(STYLES), strict=False):
        for name, colour in colours.items():
            points = [(r[X] / 1e3, r[name]) for r in records if name in r]
            if points:
                marker = "." if len(points) < 40 else None
                steps, values = zip(*points, strict=True)
                axis.plot(steps, without_rounding(values), style, marker=marker, color=colour)
    axis.set_title(panel.title, fontsize=10)
    if not colours:
        axis.set_axis_off()
        axis.text(0.5, 0.5, "none in these networks", ha="center", transform=axis.transAxes, color="gray")
        return
    axis.set_xlabel("env steps (thousands)", fontsize=9)
    axis.set_xlim(left=0.0)
    axis.ticklabel_format(axis="y", useOffset=False)
    if panel.scale == "share":
        # A little more than 0 to 1: half of a line at an end would be hidden.
        axis.set_ylim(-0.03, 1.03)
    elif panel.scale == "from zero":
        axis.set_ylim(0.0, 1.08 * axis.dataLim.y1 or 1.0)
    axis.grid(alpha=0.3)
    if len(colours) > 1:
        handles = [Line2D([], [], color=colour, label=_short(name)) for name, colour in colours.items()]
        # Below the axes: inside them it would cover lines.
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "frameon": False}
        axis.legend(handles=handles, fontsize=9, ncols=3, columnspacing=1.0, handlelength=1.3, **place)


def without_rounding(values: Sequence[float]) -> Sequence[float]:
    """Return the values, all replaced by their middle where they differ by rounding alone."""
    low, high = min(values), max(values)
    return [(low + high) / 2] * len(values) if high - low <= ROUNDING * max(abs(low), abs(high)) else values


def belongs(metric: str, names: tuple[str, ...]) -> bool:
    """Whether a metric belongs to a panel with these names."""
    name = metric.removeprefix(PREFIX)
    return name != metric and any(name.startswith(n) if n[-1] in "/_" else name == n for n in names)


def _short(metric: str) -> str:
    group, slash, name = metric.removeprefix(PREFIX).partition("/")
    if not slash:
        return group
    return f"expert {int(name) + 1}" if name.isdecimal() else name


def _newest_kernel(run_path: Path) -> tuple[int, Any] | None:
    """Return the newest empirical NTK of a run with its update; None without any."""
    for file in reversed(array_files(run_path)):
        update = int(file.stem.partition("-")[2])
        kernel = read_arrays(run_path, update).get("entk")
        if kernel is not None and kernel.size:
            return update, kernel
    return None


def _draw_kernel(axis: Any, name: str, update: int, kernel: Any) -> None:
    """Draw an empirical NTK as cosines, as TensorBoard has it (docs/diagnostics.md)."""
    image = axis.imshow(cosines(kernel), cmap="RdBu_r", vmin=-1, vmax=1)
    axis.set_title(f"{name}: empirical NTK at update {update:,}", fontsize=10)
    axis.set_xlabel("sample", fontsize=9)
    axis.set_ylabel("sample", fontsize=9)
    bar = axis.figure.colorbar(image, ax=axis, fraction=0.046)
    bar.set_label("cosine of their gradients", fontsize=9)
