"""A picture of learning curves: one panel a game, one legend outside of them, axes in units that fit."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

# Before pyplot chooses a backend: Agg needs no display.
matplotlib.use("Agg")
import matplotlib.pyplot as plt

from deploy.reports.curves.published_bands import draw_published, draw_scores
from deploy.reports.curves.run_curves import Against, RunCurves

ACROSS = 3
"""Most panels in a row."""
ROW = 0.19
"""Inches of a row of the legend."""
BEYOND = 1.5
"""How far past the runs' end published curves go, as a factor."""


def draw_panels(
    runs: Sequence[RunCurves],
    target: Path,
    draw: Callable[[Any, list[RunCurves]], str],
    *,
    against: Against,
    note: str,
) -> Path:
    """Draw one panel for each game of `runs` into `target`; return `target`.

    `draw` fills a panel with a game's runs, on an axis of millions of frames or of hours, and returns what to
    add to its title. `note` says below the legend what is common to all panels.
    """
    games = list(dict.fromkeys(run.game for run in runs))
    across = min(ACROSS, len(games))
    down = -(-len(games) // across)
    size = (9.0, 4.8) if len(games) == 1 else (5.0 * across, 3.6 * down)
    figure, grid = plt.subplots(down, across, figsize=size, layout="constrained", squeeze=False)
    panels = list(grid.flat)
    for axes, game in zip(panels, games, strict=False):
        own = [run for run in runs if run.game == game]
        axes.set_title(" ".join([game, draw(axes, own)]).strip(), fontsize=11)
        beside(axes, own, against)
        label_along(axes, against)
        axes.grid(alpha=0.3)
    for axes in grid[:, 0]:
        axes.set_ylabel("return")
    for axes in panels[len(games) :]:
        axes.set_axis_off()
    legend_outside(figure, panels[: len(games)], note)
    figure.savefig(target, dpi=110)
    # pyplot keeps a figure, and its memory, until it is closed.
    plt.close(figure)
    return target


def beside(axes: Any, runs: Sequence[RunCurves], against: Against) -> None:
    """Draw what is known of the game: published seeds against frames, and scores.

    Published agents acted with epsilon 0.01: beside runs that only explore they would mislead.
    """
    curves = [curve for run in runs for curve in run.curves]
    # Nobody has published their hours.
    if against == "frames" and any(curve.comparable for curve in curves):
        end = BEYOND * max(curve.frames[-1] for curve in curves)
        draw_published(axes, runs[0].game, [run.encoder for run in runs], end)
    draw_scores(axes, runs[0].game)


def label_along(axes: Any, against: Against) -> None:
    """Label the horizontal axis: thousands of frames below a million, minutes below an hour."""
    name, large, small, factor = {
        "frames": ("emulator frames", "millions", "thousands", 1000),
        "hours": ("training", "hours", "minutes", 60),
    }[against]
    axes.set_xlim(left=0.0)
    # Published curves go further than the runs, whose own end decides.
    is_small = axes.dataLim.x1 < BEYOND
    axes.set_xlabel(f"{name} ({small if is_small else large})")
    if is_small:
        # Ticks at round numbers of the smaller unit.
        end = factor * axes.get_xlim()[1]
        ticks = [
            tick
            for tick in matplotlib.ticker.MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]).tick_values(0, end)
            if tick <= end
        ]
        axes.set_xticks([tick / factor for tick in ticks], [f"{tick:,g}" for tick in ticks])


def legend_outside(figure: Any, panels: Iterable[Any], note: str) -> None:
    """Put one legend of all panels below them, each label once, with `note` as its title.

    What the runs are compared with comes last: it is drawn in greys.
    """
    found = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    handles = dict(sorted(found.items(), key=lambda entry: not entry[1].get_color().startswith("C")))
    longest = max(map(len, handles), default=1)
    # Some 16 characters of this size to an inch, and the line beside them.
    columns = min(max(1, math.floor(16 * figure.get_figwidth() / (longest + 8))), 4)
    # Taller by the legend, which would take its height from the panels.
    figure.set_figheight(figure.get_figheight() + ROW * (1 + math.ceil(len(handles) / columns)))
    look: dict[str, Any] = {"fontsize": 8, "title": note, "title_fontsize": 8, "frameon": False}
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns}
    figure.legend(handles.values(), handles.keys(), **place, **look)
