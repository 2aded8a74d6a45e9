"""What learning curves are drawn beside: published seeds as bands, random and human scores as lines."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from deploy.reports.seeds.published import ENCODERS, NotPublished, PublishedCurve, published_curve
from deploy.reports.statistics import human_scores, score_key

AGENTS = ("rainbow", "dqn")
"""Published agents drawn beside runs."""
GREYS = {"rainbow": "0.3", "dqn": "0.6"}
DASHES = {"nature": "--", "impala": "-."}
FAR = 3.0
"""A score further from the curves than this many times their own range is named and not drawn: a line there
would squeeze them."""


def published_beside(game: str, encoders: Iterable[str]) -> list[tuple[PublishedCurve, dict[str, Any]]]:
    """Return the published curves of a game with these encoders, with their looks; empty for an unknown game.

    Without a published encoder among them: those of `nature`.
    """
    known = [encoder for encoder in ENCODERS if encoder in set(encoders)] or ["nature"]
    try:
        return [
            (
                published_curve(game, agent, encoder),
                {"color": GREYS[agent], "linestyle": DASHES[encoder]},
            )
            for encoder in known
            for agent in AGENTS
        ]
    except NotPublished:
        return []


def draw_published(axes: Any, game: str, encoders: Iterable[str], end: float) -> None:
    """Draw mean, lowest and highest seed of the published curves up to `end` million frames."""
    for curve, look in published_beside(game, encoders):
        rows = [
            (window + 1.0, row)
            for window, row in zip(curve.iterations, curve.values, strict=True)
            if window + 1.0 <= end and row
        ]
        if not rows:
            continue
        frames = [frames for frames, _ in rows]
        label = f"{curve.label}: mean, lowest and highest of {max(len(row) for _, row in rows)} seeds"
        axes.plot(frames, [np.mean(row) for _, row in rows], linewidth=1, label=label, **look)
        # Bars and not an area where a single window is shown: an area needs two.
        lows, highs = [min(row) for _, row in rows], [max(row) for _, row in rows]
        if len(rows) > 1:
            axes.fill_between(frames, lows, highs, color=look["color"], alpha=0.18, linewidth=0)
        else:
            axes.vlines(frames, lows, highs, color=look["color"], linewidth=4, alpha=0.4)


def draw_scores(axes: Any, game: str) -> None:
    """Draw a game's random and human score as lines, or name one far from what is drawn; nothing without."""
    low, high = axes.get_ylim()
    reach = FAR * (high - low)
    scores = human_scores().get(score_key(game), {})
    for name, colour in (("random", "gray"), ("human", "black")):
        if name not in scores:
            continue
        value, style = scores[name], {"color": colour, "linewidth": 1}
        if low - reach <= value <= high + reach:
            axes.axhline(value, linestyle=":", label=name, **style)
            continue
        place, edge, arrow = (
            (0.98, "top", "\N{UPWARDS ARROW}") if value > high else (0.02, "bottom", "\N{DOWNWARDS ARROW}")
        )
        axes.text(
            0.01,
            place,
            f"{arrow} {name} {value:,.4g}",
            color=colour,
            va=edge,
            fontsize=8,
            transform=axes.transAxes,
        )
