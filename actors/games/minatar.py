"""MinAtar's games (Young and Tian, 2019, arXiv 1903.03176), many at once, by the package `minatar`.

The package is under the GPL: it is neither shipped with Apexpert nor needed for anything else.
"""

import difflib
import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.vector_environment import ON, EnvironmentSetupError, StepResult
from replay.types import FrameShape

PREFIX = "minatar:"
GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
NUM_ACTIONS = 6
"""Of the full set: no-op, left, up, right, down, fire, in every game."""


def is_minatar(env: str) -> bool:
    """Whether `--environment.env` names a game of MinAtar: `minatar:breakout`."""
    return env.startswith(PREFIX)


class MinAtarEnvironment:
    """MinAtar games with frames (C, 10, 10): one plane a kind of object, 255 where there is one.

    Sticky actions, difficulty ramping and random numbers are those of `minatar.Environment`, so equal seeds
    and actions give equal games. `max_frames_per_episode` truncates a game; the package has no limit but
    Freeway's own, after 2,500 steps, which is a true end there.
    """

    def __init__(self, config: EnvironmentConfig, num_envs: int, seeds: NDArray[np.int64]) -> None:
        """Raises EnvironmentSetupError for a game that does not exist, and without the package."""
        rules = _rules_of(config.env.removeprefix(PREFIX))
        self._games = [rules.Env(ramping=True) for _ in range(num_envs)]
        self._seeds = [int(seed) for seed in seeds]
        self._sticky, self._max_steps = config.repeat_action_probability, config.max_frames_per_episode
        self._last_actions = [0] * num_envs
        self._steps = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, bool)
        everything = list(range(NUM_ACTIONS))
        self._actions = everything if config.full_action_space else self._games[0].minimal_action_set()
        height, width, channels = self._games[0].state_shape()
        self.num_envs, self.num_actions = num_envs, len(self._actions)
        self.frame_shape: FrameShape = (int(channels), int(height), int(width))

    def reset(self) -> NDArray[np.uint8]:
        """(E, C, H, W) first frames of new games, seeded."""
        for game, seed in zip(self._games, self._seeds, strict=True):
            # The games draw from a generator of NumPy's older kind.
            game.random = np.random.RandomState(seed)
            game.reset()
        self._last_actions = [0] * self.num_envs
        self._steps[:] = 0
        self._ended[:] = False
        return self._frames()

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """Apply (E,) actions, sticky as configured."""
        valid = ~self._ended
        rewards = np.zeros(self.num_envs, np.float32)
        terminated = np.zeros(self.num_envs, bool)
        for env, action in enumerate(actions.tolist()):
            if valid[env]:
                rewards[env], terminated[env] = self._act(env, self._actions[action])
            else:
                self._games[env].reset()
        self._steps = np.where(valid, self._steps + 1, 0)
        truncated = valid & ~terminated & (self._steps >= self._max_steps)
        self._ended = terminated | truncated
        return StepResult(
            self._frames(), rewards, terminated, truncated, np.zeros(self.num_envs, bool), valid
        )

    def close(self) -> None:
        """Nothing is held open."""

    def _act(self, env: int, action: int) -> tuple[float, bool]:
        """Let one game act by its action's number in the full set, or repeat its last one."""
        game = self._games[env]
        # As in the package: the last action outlives the episode's end.
        if game.random.rand() < self._sticky:
            action = self._last_actions[env]
        self._last_actions[env] = action
        reward, over = game.act(action)
        return float(reward), bool(over)

    def _frames(self) -> NDArray[np.uint8]:
        states = np.stack([game.state() for game in self._games])  # (E, H, W, C) of bools
        return np.ascontiguousarray(states.transpose(0, 3, 1, 2)).view(np.uint8) * ON


@functools.cache
def _rules_of(game: str) -> Any:
    """Return the module of the package with a game's rules; raises EnvironmentSetupError."""
    named = f"--environment.env {PREFIX + game!r}"
    if game not in GAMES:
        near = difflib.get_close_matches(game.lower(), GAMES, n=1)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else f"there are {', '.join(GAMES)}"
        raise EnvironmentSetupError(f"{named} is not a game of MinAtar; {hint}")
    package = importlib.util.find_spec("minatar")
    if package is None or not package.submodule_search_locations:
        raise EnvironmentSetupError(
            f"{named} needs MinAtar, which does not come with Apexpert: pip install minatar"
        )
    # Not `import minatar`: for a window that nobody opens it loads matplotlib, seaborn and pandas, 136 MB and
    # more than a second in every process (decision 0035). A game's rules need NumPy alone.
    path = Path(package.submodule_search_locations[0]) / "environments" / f"{game}.py"
    spec = importlib.util.spec_from_file_location(f"minatar_{game}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
