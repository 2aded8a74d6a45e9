"""Pictures of a game for viewers: a second emulator in colour beside the one that plays."""

import colorsys
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from ale_py import ALEInterface, LoggerMode, roms
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environments import StepResult, normalise_game
from apexpert.errors import ApexpertError


class Scene(NamedTuple):
    """What a viewer sees after one env step of an episode."""

    picture: NDArray[np.uint8]
    """Grey (H, W) or RGB (H, W, 3)."""
    env_step: int
    """Env steps of the episode so far, without no-ops at its start, as in its length."""
    return_: float
    """Sum of the raw rewards so far."""


Recorder = Callable[[Scene], None]
"""Takes one scene."""


class NoWindow(ApexpertError):
    """A game cannot be shown in a window here; the message comes from the graphics library."""


class View(Protocol):
    """Shows environment slot 0, one picture per env step."""

    def begin(self, first_frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture of an episode's start; `first_frames` (E, H, W) are the environments' frames."""

    def step(self, action: int, result: StepResult) -> NDArray[np.uint8]:
        """Return the picture after slot 0 took `action`."""


class FrameView:
    """Shows the frames that the network sees."""

    def begin(self, first_frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the frame as `picture_of` shows it."""
        return picture_of(first_frames[0])

    def step(self, action: int, result: StepResult) -> NDArray[np.uint8]:
        """Return the frame as `picture_of` shows it."""
        return picture_of(result.frames[0])


def picture_of(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a grey frame (H, W) as it is, and one of C planes (C, H, W) as RGB (H, W, 3).

    Each plane has a colour of its own, as bright as its values; a later plane hides those before it.
    """
    if frame.ndim == 2:
        return frame
    picture = np.zeros((*frame.shape[1:], 3), np.float64)
    for place, plane in enumerate(frame):
        colour = colorsys.hsv_to_rgb(place / len(frame), 0.7, 1.0)
        picture = np.where(plane[..., None] > 0, plane[..., None] * np.array(colour), picture)
    return np.rint(picture).astype(np.uint8)


class ColourView:
    """Replays the same moves in a second emulator: same game, seed and sticky actions, so the same game.

    Pictures are RGB (210, 160, 3) for most games: the pixel-wise maximum of the last two screens, as in the
    network's frames. It follows the first episode after seeding.
    """

    def __init__(self, config: EnvironmentConfig, seed: int, *, window: bool = False) -> None:
        """With `window` the emulator also shows its screen, at the game's own speed, or raises NoWindow."""
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self._ale = ALEInterface()
        self._ale.setInt("random_seed", seed)
        self._ale.setFloat("repeat_action_probability", config.repeat_action_probability)
        self._ale.setBool("display_screen", window)
        rom = roms.get_rom_path(normalise_game(config.game))
        assert rom is not None
        _load(self._ale, rom, window=window)
        full = config.full_action_space
        self._actions = self._ale.getLegalActionSet() if full else self._ale.getMinimalActionSet()
        self._frame_skip = config.frame_skip

    def begin(self, first_frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return RGB (H, W, 3)."""
        self._ale.reset_game()
        return self._ale.getScreenRGB()

    def step(self, action: int, result: StepResult) -> NDArray[np.uint8]:
        """Return RGB (H, W, 3)."""
        before = after = self._ale.getScreenRGB()
        for _ in range(self._frame_skip):
            if self._ale.game_over():
                break
            self._ale.act(self._actions[action])
            before, after = after, self._ale.getScreenRGB()
        return np.maximum(before, after)


def _load(ale: ALEInterface, rom: Path, *, window: bool) -> None:
    """Load a game; raise NoWindow when a window was requested and cannot be opened."""
    if window and sys.platform == "linux":
        # Otherwise SDL, which the emulator draws with, shows the game nowhere when no screen answers.
        os.environ.setdefault("SDL_VIDEODRIVER", "x11,wayland")
    try:
        ale.loadROM(rom)
    except RuntimeError as error:
        if not window:
            raise
        raise NoWindow(str(error)) from error


NOOP = 0
"""The first action of every game."""


def _nowhere(_scene: Scene) -> None:
    """Discard the scene."""


class EpisodeRecording:
    """Passes the scenes of slot 0's first episode to a recorder, or shows them in a window, or neither."""

    def __init__(
        self, recorder: Recorder | None, config: EnvironmentConfig, seed: int, *, window: bool = False
    ) -> None:
        self._recorder = recorder or (_nowhere if window else None)
        self._env_steps, self._return = 0, 0.0
        self._view: View = FrameView()
        if self._recorder and not config.env:
            self._view = ColourView(config, seed, window=window)

    def begin(self, first_frames: NDArray[np.uint8]) -> None:
        """Record the reset of the environments, slot 0 with the seed of this recording."""
        if self._recorder:
            self._recorder(Scene(self._view.begin(first_frames), 0, 0.0))

    def step(self, action: int, result: StepResult) -> None:
        """Record that slot 0 took `action`, or a no-op at the start of the episode."""
        if self._recorder:
            picture = self._view.step(action if result.valid[0] else NOOP, result)
            # Counted as the episode's length and return are (actors/episodes.py).
            self._env_steps = self._env_steps + 1 if result.valid[0] else 0
            self._return = self._return + float(result.rewards[0]) if result.valid[0] else 0.0
            self._recorder(Scene(picture, self._env_steps, self._return))
            if result.terminated[0] or result.truncated[0]:
                self._recorder = None
