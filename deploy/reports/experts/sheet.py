"""A contact sheet of what experts look at, as one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploy.reports.captions import enlarged
from deploy.reports.experts.heat import Moment, add_colour_bar, heat_picture, share_and_look

SMALLEST_SIDE = 240
"""Pixels of a screen in the sheet, so that the lines between tokens are thin."""
MOST_VALUES = 8
"""Actions whose values are named, the best first."""


def draw_sheet(moments: Sequence[Moment], title: str, names: Sequence[str], target: Path) -> Path:
    """Draw a contact sheet: one row per moment, with the screen, each expert's map and the actions' values.

    `names` are the actions'. Raises OSError.
    """
    experts = len(moments[0].attention.shares)
    height, width = moments[0].picture.shape[:2]
    size = (2.0 * (experts + 2) + 0.6, (2.0 * height / width + 0.5) * len(moments) + 1.6)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(moments), experts + 2, squeeze=False)
    for row, moment in zip(grid, moments, strict=True):
        _draw_screen(row[0], moment, names)
        for expert, axes in enumerate(row[1:-1]):
            _draw_map(axes, moment, expert)
        _draw_values(row[-1], moment, names)
    maps = moments[0].attention.maps
    place: dict[str, Any] = {"location": "bottom", "shrink": 0.6, "aspect": 45, "pad": 0.01}
    add_colour_bar(figure, maps.quantity, ax=list(grid.flat), **place)
    rows, columns = maps.weights.shape[1:]
    figure.suptitle(f"{title}\ngrid: {rows} x {columns} {maps.cells}", fontsize=11)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=100)
    return target


def _draw_screen(axes: Axes, moment: Moment, names: Sequence[str]) -> None:
    axes.imshow(enlarged(moment.picture, SMALLEST_SIDE))
    _without_ticks(axes)
    step = f"step {moment.env_step:,}, return {moment.return_:,.6g}"
    axes.set_title(f"{step}\naction {names[moment.action]}", fontsize=10)


def _draw_map(axes: Axes, moment: Moment, expert: int) -> None:
    picture = enlarged(moment.picture, SMALLEST_SIDE)
    axes.imshow(heat_picture(picture, moment.attention.maps, expert))
    _without_ticks(axes)
    axes.set_title("\n".join(share_and_look(moment.attention, expert)), fontsize=10)


def _draw_values(axes: Axes, moment: Moment, names: Sequence[str]) -> None:
    """Write the actions' values, the largest first, and mark the chosen action."""
    axes.set_axis_off()
    height, width = moment.picture.shape[:2]
    axes.set_box_aspect(height / width)
    axes.set_title("Q values\n(> is chosen)", fontsize=10, loc="left")
    look: dict[str, Any] = {"fontsize": 9, "family": "DejaVu Sans Mono", "parse_math": False}
    lines = "\n".join(value_lines(moment, names))
    axes.text(0.0, 1.0, lines, va="top", transform=axes.transAxes, **look)


def value_lines(moment: Moment, names: Sequence[str]) -> list[str]:
    """Return a line an action: its value and name, at most `MOST_VALUES` and the chosen action."""
    values = moment.attention.q_values
    order = sorted(range(len(values)), key=lambda action: -values[action])
    shown = [action for place, action in enumerate(order) if place < MOST_VALUES or action == moment.action]
    lines = [f"{values[a]:7.3f} {'>' if a == moment.action else ' '} {names[a]}" for a in shown]
    hidden = len(order) - len(shown)
    return lines + ([f"and {hidden} lower"] if hidden else [])


def _without_ticks(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
