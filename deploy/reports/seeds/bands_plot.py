"""The picture of `apexpert bands`: a run's windows on the published seeds and their intervals."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from deploy.reports.seeds.bands import Bands, WindowRow


def draw_bands(name: str, bands: Bands, target: Path) -> Path:
    """Draw into `target`: seeds as dots, the 99 % interval as bars, the run's means with their errors."""
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    _draw_published(axes, bands)
    _draw_run(axes, name, [row for row in bands.rows if row.compared.mean is not None])
    axes.set_xlabel("emulator frames (millions)")
    axes.set_ylabel("mean return of the episodes that ended in a window")
    axes.set_title(f"{bands.curve.game}: {name}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(target, dpi=120)
    plt.close(figure)
    return target


def _draw_published(axes: Any, bands: Bands) -> None:
    rows = [row for row in bands.rows if row.compared.seeds]
    places = [_middle(row) for row in rows for _ in row.compared.seeds]
    values = [value for row in rows for value in row.compared.seeds]
    axes.plot(places, values, "o", color="C0", markersize=4, alpha=0.6, label=f"{bands.curve.label}: seeds")
    known = [(row, row.compared.interval) for row in rows if row.compared.interval is not None]
    if known:
        axes.bar(
            [_middle(row) for row, _ in known],
            [2 * interval.half_width for _, interval in known],
            width=0.9,
            bottom=[interval.low for _, interval in known],
            color="C0",
            alpha=0.2,
            label="99 % prediction interval for one more seed",
        )


def _draw_run(axes: Any, name: str, rows: list[WindowRow]) -> None:
    means = [row.compared.mean for row in rows]
    # A single episode has no error, NaN: its mean is drawn without a bar.
    errors = np.nan_to_num([row.compared.error for row in rows])
    places = [_middle(row) for row in rows]
    axes.errorbar(places, means, yerr=errors, color="C1", marker="s", markersize=5, capsize=3, label=name)
    outside = [row for row in rows if row.verdict in ("above", "below")]
    if outside:
        x, y = [_middle(row) for row in outside], [row.compared.mean for row in outside]
        axes.plot(x, y, "x", color="C3", markersize=11, markeredgewidth=2, label="outside")
    if partial := [row for row in rows if not row.complete]:
        x, y = [_middle(row) for row in partial], [row.compared.mean for row in partial]
        axes.plot(x, y, "s", color="white", markeredgecolor="C1", markersize=7, label="not a whole window")


def _middle(row: WindowRow) -> float:
    """Return the window's middle on the axis of millions of frames, at the published frame skip of 4."""
    return row.window + 0.5
