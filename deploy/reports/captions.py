"""Lines of text for the frames of videos."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""RGB (H, W, 3)."""

GROUND = 24
"""Grey level behind text."""
LINE_HEIGHT = 20
"""Pixels."""
CHARACTER_WIDTH = 8
"""Pixels of a character of DejaVu Sans Mono at 9 points and 100 dots an inch, a whole number by hinting."""


@functools.lru_cache(maxsize=256)
def caption(text: str, width: int) -> Picture:
    """Return one line of white text on a dark ground, (LINE_HEIGHT, width, 3); not to be written to.

    A text that is too long loses its middle: names are told apart by their ends.
    """
    # matplotlib takes a number in a string as a grey level from 0 to 1.
    figure = Figure(figsize=(width / 100, LINE_HEIGHT / 100), dpi=100, facecolor=str(GROUND / 255))
    canvas = FigureCanvasAgg(figure)
    look: dict[str, Any] = {
        "color": "white",
        "fontsize": 9,
        "family": "DejaVu Sans Mono",
        "parse_math": False,
    }
    figure.text(4 / width, 0.5, fitted(text, width), va="center", **look)
    canvas.draw()  # type: ignore[no-untyped-call]
    picture: Picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
    picture.flags.writeable = False
    return picture


def fitted(text: str, width: int) -> str:
    """Return the text, without its middle where it is longer than `width` pixels."""
    room = (width - 8) // CHARACTER_WIDTH
    if len(text) <= room:
        return text
    end = (room - 1) // 2
    return f"{text[: room - 1 - end]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - end :]}"


def enlarged(picture: NDArray[np.uint8], smallest: int) -> Picture:
    """Return a picture, grey (H, W) or RGB, as RGB, its sides times the least whole factor to `smallest`."""
    rgb = np.stack([picture] * 3, axis=-1) if picture.ndim == 2 else picture
    factor = max(1, -(-smallest // min(rgb.shape[:2])))
    return rgb.repeat(factor, axis=0).repeat(factor, axis=1)


def with_lines(lines: Sequence[str], picture: Picture) -> Picture:
    """Return the picture (H, W, 3) with lines of text above it."""
    return np.concatenate([*(caption(line, picture.shape[1]) for line in lines), picture], axis=0)
