"""The frames of a film of what experts look at while a game is played."""

import functools
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from deploy.reports.captions import GROUND, Picture, enlarged, with_lines
from deploy.reports.experts.heat import Moment, add_colour_bar, heat_picture, share_and_look

LEAST_WIDTH = 240
"""Pixels of a panel, so that its captions fit."""
GAP = 3
"""Dark pixels around a panel."""
BAR_HEIGHT = 72
"""Pixels of the colour bar with its label."""
ACROSS = 5
"""Maximum number of panels in a row."""


class FilmFrames:
    """Makes the frames of a film: what is played and how it stands, the screen, a panel an expert, the scale.

    Every frame of a film has the same size.
    """

    def __init__(self, title: str, names: Sequence[str]) -> None:
        """`title` names game and checkpoint, `names` are the actions'."""
        self._title, self._names = title, names

    def __call__(self, moment: Moment) -> Picture:
        """Return one frame, its panels in rows of at most 5."""
        attention = moment.attention
        screen = enlarged(moment.picture, LEAST_WIDTH)
        tiles = [with_lines(["screen", ""], screen)]
        tiles += [
            with_lines(share_and_look(attention, expert), heat_picture(screen, attention.maps, expert))
            for expert in range(len(attention.shares))
        ]
        around = ((GAP, GAP), (GAP, GAP), (0, 0))
        tiles = [np.pad(tile, around, constant_values=GROUND) for tile in tiles]
        across = min(ACROSS, len(tiles))
        # Fill the last row: rows are stacked, so all must be equally wide.
        tiles += [np.full_like(tiles[0], GROUND)] * (-len(tiles) % across)
        rows = [np.concatenate(tiles[i : i + across], axis=1) for i in range(0, len(tiles), across)]
        panels = np.concatenate(rows, axis=0)
        bar = colour_bar(attention.maps.quantity, panels.shape[1])
        return np.concatenate([with_lines([self._title, self._standing(moment)], panels), bar], axis=0)

    def _standing(self, moment: Moment) -> str:
        value = moment.attention.q_values[moment.action]
        where = f"step {moment.env_step:,}  return {moment.return_:,.6g}"
        return f"{where}  action {self._names[moment.action]}  Q {value:.3f}"


@functools.cache
def colour_bar(quantity: str, width: int) -> Picture:
    """Return the colour bar of the maps with its label, (BAR_HEIGHT, width, 3)."""
    figure = Figure(figsize=(width / 100, BAR_HEIGHT / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.05, 0.68, 0.9, 0.24))
    add_colour_bar(figure, quantity, cax=axes, orientation="horizontal")
    canvas.draw()  # type: ignore[no-untyped-call]
    picture: Picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
    return picture
