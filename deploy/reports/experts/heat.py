"""Heat maps of what experts look at: weight over uniform, in colours that are the same in every picture."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deploy.reports.captions import Picture
from deploy.reports.experts.attention import Attention, Maps

COLOURS = colormaps["RdBu_r"]
LIMIT = 8.0
"""The colours end at this many times uniform, and at its inverse."""
OPACITY = 0.65
"""Of the colours over the screen."""
DARKEST, CONTRAST = 0.25, 0.4
"""Brightness of black below the colours, and what white adds: little, as it would change the colours."""
LINE = 0.75
"""Brightness of the lines between cells, as a share of what is below them."""
TICKS = {1 / 8: "1/8", 1 / 4: "1/4", 1 / 2: "1/2", 1.0: "1", 2.0: "2", 4.0: "4", 8.0: "8"}


@dataclass(frozen=True)
class Moment:
    """One env step of a game."""

    env_step: int
    return_: float
    """Return of the episode before the step."""
    picture: NDArray[np.uint8]
    """The screen: RGB (H, W, 3) or grey (H, W)."""
    attention: Attention
    action: int
    """The action that the policy chose."""


def scale() -> LogNorm:
    """Return the scale of the colours: logarithmic, so that 1, which is uniform, is its middle."""
    return LogNorm(1 / LIMIT, LIMIT, clip=True)


def colours() -> Colormap:
    """Return the colours from 1/8 of uniform (blue) over uniform (white) to 8 times (red), on middle grey."""
    pure = COLOURS(np.linspace(0, 1, 256))[:, :3]
    return ListedColormap(OPACITY * pure + (1 - OPACITY) * (DARKEST + CONTRAST / 2))


def add_colour_bar(figure: Figure, quantity: str, **where: Any) -> None:
    """Add the colour bar of all maps of that quantity to the figure; `where` as for `Figure.colorbar`."""
    bar = figure.colorbar(ScalarMappable(scale(), colours()), extend="both", **where)
    bar.set_label(f"{quantity}, in multiples of uniform (1: the same everywhere)", fontsize=10)
    bar.set_ticks(list(TICKS), labels=list(TICKS.values()), fontsize=9)
    bar.minorticks_off()


def heat_picture(picture: Picture, maps: Maps, expert: int) -> Picture:
    """Return the RGB picture, grey, with an expert's weights over uniform in colour and lines between cells.

    Places that no token covers, and a map of zeros alone, stay grey.
    """
    grey = picture.astype(np.float32).mean(axis=2, keepdims=True) / 255.0
    rows, row_covered = _cells(maps.row_edges, picture.shape[0])
    columns, column_covered = _cells(maps.column_edges, picture.shape[1])
    ratios = maps.over_uniform[expert]
    if np.isnan(ratios).any():
        column_covered = np.zeros_like(column_covered)
    covered = (row_covered[:, None] & column_covered)[..., None]
    heat = COLOURS(scale()(np.nan_to_num(ratios)))[..., :3].astype(np.float32)[rows][:, columns]
    mixed = (DARKEST + CONTRAST * grey) * np.where(covered, 1 - OPACITY, 1.0) + OPACITY * covered * heat
    # Neighbours of one colour are told apart by the line where they meet.
    meets = (_begins(rows)[:, None] | _begins(columns))[..., None] & covered
    return (255 * np.where(meets, LINE * mixed, mixed).clip(0, 1)).astype(np.uint8)


def _cells(edges: NDArray[np.float64], size: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return, for each of `size` pixels, the cell that its middle is in, and whether it is in one."""
    middles = (np.arange(size) + 0.5) / size
    cells = np.searchsorted(edges, middles, side="right") - 1
    return cells.clip(0, len(edges) - 2), (cells >= 0) & (cells < len(edges) - 1)


def _begins(cells: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which pixels are the first of a cell, but for the first of all."""
    return np.diff(cells, prepend=cells[:1]) != 0


def share_and_look(attention: Attention, expert: int) -> tuple[str, str]:
    """Return an expert's name with its share of the output, and how it looks."""
    return f"expert {expert + 1}: {attention.shares[expert]:.0%} of output", attention.maps.in_words(expert)
