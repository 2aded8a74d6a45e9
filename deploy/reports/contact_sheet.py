"""A contact sheet of sampled transitions: what the learner sees, as one picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environments import normalise_game
from actors.rendering import picture_of
from replay.tools.preview import DrawnTransition

COLUMNS = 4
GAP = 3
"""White pixels between frames."""
SPACE = 0.12
"""Inches around a transition: more than between its frames."""


def action_names(config: EnvironmentConfig | None, num_actions: int) -> list[str]:
    """Return the game's names of its actions, such as UPRIGHT; numbers in other environments."""
    if config is None or config.env:
        return [f"action {action}" for action in range(num_actions)]
    import ale_py

    # Before the emulator is made, which would print its banner.
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    rom = ale_py.roms.get_rom_path(normalise_game(config.game))
    if rom is None:
        return [f"action {action}" for action in range(num_actions)]
    ale.loadROM(rom)
    actions = ale.getLegalActionSet() if config.full_action_space else ale.getMinimalActionSet()
    return [action.name for action in actions]


def draw_contact_sheet(
    transitions: Sequence[DrawnTransition], names: Sequence[str], target: Path, *, title: str
) -> Path:
    """Draw transitions into a PNG: for each the oldest and newest frame of its observation, the newest of its
    next observation, and as text action, n-step return and priority.
    """
    rows = -(-len(transitions) // COLUMNS)
    figure = Figure(figsize=(4.0 * COLUMNS, 0.5 + 1.95 * rows), layout=ConstrainedLayoutEngine(w_pad=SPACE))
    figure.suptitle(
        f"{title}\noldest and newest frame of the observation | newest frame of the next one",
        fontsize=10,
    )
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for transition, axes in zip(transitions, grid.flat, strict=False):
        _draw(axes, transition, names)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
    return target


def _draw(axes: Axes, transition: DrawnTransition, names: Sequence[str]) -> None:
    # A fixed range: imshow would stretch each strip to its own darkest and brightest pixel.
    axes.imshow(_strip(transition), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    end = ", the end" if transition.discount == 0 else ""
    axes.set_title(
        f"{names[transition.action]}, return {transition.reward:+.3f} in {transition.steps}{end}\n"
        f"mass {transition.mass:.3g}, P {transition.probability:.1e}\n"
        f"segment {transition.identity}, step {transition.step:,}, weights {transition.weights_version}",
        fontsize=7,
        loc="left",
    )


def _strip(transition: DrawnTransition) -> NDArray[np.uint8]:
    """Return the three frames side by side (height, 3 * width + gaps), grey or RGB."""
    frames = (transition.observation[0], transition.observation[-1], transition.next_observation[-1])
    oldest, newest, later = map(picture_of, frames)
    gap = np.full((oldest.shape[0], GAP, *oldest.shape[2:]), 255, np.uint8)
    return np.hstack([oldest, gap, newest, gap, gap, later])
