"""Pictures of what experts look at: heat maps over the screen, a contact sheet, frames of a film."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deploy.reports.experts.attention import Attention, Maps

Picture = NDArray[np.uint8]
"""RGB (H, W, 3)."""

HEAT = colormaps["inferno"]
STRENGTH = 0.75
"""Opacity of the colour where an expert looks most."""
BAR = (235, 130, 40)
GROUND = 24
LEAST_WIDTH = 240
"""Minimum width in pixels of a film's panel, so that its caption fits."""
CAPTION_HEIGHT = 24
ACROSS = 5
"""Maximum number of panels in a row of a film."""


@dataclass(frozen=True)
class Moment:
    """One env step of a game."""

    env_step: int
    picture: NDArray[np.uint8]
    """The screen: RGB (H, W, 3) or grey (H, W)."""
    attention: Attention


def heat_picture(picture: NDArray[np.uint8], maps: Maps, expert: int) -> Picture:
    """Return the picture, grey (H, W) or RGB, darkened, with an expert's weights in colour over it.

    The place of the largest weight has the brightest colour; places that no token covers have none.
    """
    rgb = _rgb(picture).astype(np.float32) / 255.0
    weights = maps.weights[expert]
    rows, row_covered = _cells(maps.row_edges, rgb.shape[0])
    columns, column_covered = _cells(maps.column_edges, rgb.shape[1])
    heat = (weights / max(float(weights.max()), 1e-12))[rows][:, columns]
    heat = heat * row_covered[:, None] * column_covered
    alpha = STRENGTH * heat[..., None]
    mixed = (1 - alpha) * rgb * 0.6 + alpha * HEAT(heat)[..., :3].astype(np.float32)
    return (255 * mixed.clip(0, 1)).astype(np.uint8)


def _cells(edges: NDArray[np.float64], size: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return, for each of `size` pixels, the cell that its middle is in, and whether it is in one."""
    middles = (np.arange(size) + 0.5) / size
    cells = np.searchsorted(edges, middles, side="right") - 1
    return cells.clip(0, len(edges) - 2), (cells >= 0) & (cells < len(edges) - 1)


def panels(picture: NDArray[np.uint8], attention: Attention) -> list[Picture]:
    """Return the screen, then one picture per expert."""
    heat = [heat_picture(picture, attention.maps, expert) for expert in range(len(attention.shares))]
    return [_rgb(picture), *heat]


class FilmFrames:
    """Makes the frames of a film: the screen, and each expert's panel with caption and share."""

    def __init__(self) -> None:
        self._captions: list[Picture] = []

    def __call__(self, picture: NDArray[np.uint8], attention: Attention) -> Picture:
        """Return one frame, its panels in rows of at most 5; every frame of a film has the same size."""
        images = panels(picture, attention)
        factor = max(1, -(-LEAST_WIDTH // images[0].shape[1]))
        images = [image.repeat(factor, axis=0).repeat(factor, axis=1) for image in images]
        # Titles never change within a film, so each is drawn once.
        if not self._captions:
            self._captions = [caption(text, images[0].shape[1]) for text in titles(attention)]
        tiles = [np.concatenate(pair, axis=0) for pair in zip(self._captions, images, strict=True)]
        for tile, share in zip(tiles[1:], attention.shares, strict=True):
            # Tiles are copies: the bar leaves the kept captions as they are.
            tile[CAPTION_HEIGHT - 4 : CAPTION_HEIGHT - 1, : round(float(share) * tile.shape[1])] = BAR
        across = min(ACROSS, len(tiles))
        # Fill the last row: rows are stacked, so all must be equally wide.
        tiles += [np.full_like(tiles[0], GROUND)] * (-len(tiles) % across)
        rows = [np.concatenate(tiles[i : i + across], axis=1) for i in range(0, len(tiles), across)]
        return np.concatenate(rows, axis=0)


def caption(text: str, width: int) -> Picture:
    """Return white text on a dark ground, (CAPTION_HEIGHT, width, 3)."""
    # matplotlib takes a number in a string as a grey level from 0 to 1.
    figure = Figure(figsize=(width / 100, CAPTION_HEIGHT / 100), dpi=100, facecolor=str(GROUND / 255))
    canvas = FigureCanvasAgg(figure)
    figure.text(0.02, 0.6, text, color="white", fontsize=9, va="center")
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def titles(attention: Attention) -> list[str]:
    """Return the titles of the panels."""
    return ["screen", *(f"expert {expert + 1}" for expert in range(len(attention.shares)))]


def draw_sheet(moments: Sequence[Moment], title: str, target: Path) -> Path:
    """Draw a contact sheet: one row per moment, one column per expert. Raises OSError."""
    rows = [panels(moment.picture, moment.attention) for moment in moments]
    height, width = rows[0][0].shape[:2]
    size = (2.0 * len(rows[0]) + 0.5, (2.0 * height / width + 0.3) * len(rows) + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for axes, images, moment in zip(grid, rows, moments, strict=True):
        for axis, image, label in zip(axes, images, _labels(moment.attention), strict=True):
            axis.imshow(image)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(label, fontsize=8)
        axes[0].set_ylabel(f"env step {moment.env_step:,}", fontsize=8)
    figure.suptitle(title, fontsize=10)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
    return target


def _labels(attention: Attention) -> list[str]:
    """Return titles with numbers: an expert's share, and how sharply it looks."""
    names = titles(attention)
    numbers = zip(names[1:], attention.shares, attention.maps.peaks, strict=True)
    return [names[0], *(f"{name}: {share:.0%}, peak x{peak:.1f}" for name, share, peak in numbers)]


def _rgb(picture: NDArray[np.uint8]) -> Picture:
    return np.stack([picture] * 3, axis=-1) if picture.ndim == 2 else picture
