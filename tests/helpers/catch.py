"""Catch in pixels: a block falls, a paddle catches it; a whole training run on it takes seconds.

The board is 7 x 7 cells of 12 x 12 pixels, so a frame is 84 x 84. A block starts in a random column of the
top row and falls one row a step; the paddle starts in the middle of the bottom row and goes left, stays or
goes right. After 6 steps the block is at the bottom: reward 1 if the paddle is under it, -1 otherwise, and
the episode ends. The optimum is 1.0. After bsuite's catch (Osband et al., 2020, arXiv 1908.03568).
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

BOARD = 7
CELL = 12
EPISODE_STEPS = BOARD - 1
BLOCK_BRIGHTNESS = 255
PADDLE_BRIGHTNESS = 160


class Catch(VectorEnv):
    """`num_envs` games of Catch; a `time_limit` below 6 truncates every episode after that many steps."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(self, num_envs: int, *, time_limit: int | NDArray[np.int64] = 0) -> None:
        self.num_envs = num_envs
        self.time_limit = np.full(num_envs, time_limit)
        self.single_observation_space = gymnasium.spaces.Box(0, 255, (BOARD * CELL, BOARD * CELL), np.uint8)
        self.single_action_space = gymnasium.spaces.Discrete(3)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        self._row = np.zeros(num_envs, np.int64)
        self._block = np.zeros(num_envs, np.int64)
        self._paddle = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """New games in all environments; an integer seeds them with consecutive values."""
        if seed is not None:
            seeds = range(seed, seed + self.num_envs) if isinstance(seed, int) else seed
            self._generators = [np.random.default_rng(int(s)) for s in seeds]
        self._ended[:] = False
        self._start(np.ones(self.num_envs, bool))
        return self._frames(), {}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Move left (0), stay (1) or move right (2); where the episode has ended, start a new one instead."""
        resets = self._ended
        moves = np.where(resets, 0, np.asarray(actions) - 1)
        self._paddle = np.clip(self._paddle + moves, 0, BOARD - 1)
        self._row = self._row + ~resets
        self._start(resets)
        terminated = self._row == EPISODE_STEPS
        truncated = ~terminated & (self.time_limit > 0) & (self._row == self.time_limit)
        rewards = np.where(terminated, np.where(self._block == self._paddle, 1.0, -1.0), 0.0)
        self._ended = terminated | truncated
        return self._frames(), rewards, terminated, truncated, {}

    def _start(self, which: NDArray[np.bool_]) -> None:
        for env in np.flatnonzero(which):
            self._block[env] = self._generators[env].integers(BOARD)
        self._row = np.where(which, 0, self._row)
        self._paddle = np.where(which, BOARD // 2, self._paddle)

    def _frames(self) -> NDArray[np.uint8]:
        board = np.zeros((self.num_envs, BOARD, BOARD), np.uint8)
        envs = np.arange(self.num_envs)
        board[envs, BOARD - 1, self._paddle] = PADDLE_BRIGHTNESS
        board[envs, self._row, self._block] = BLOCK_BRIGHTNESS
        return board.repeat(CELL, axis=1).repeat(CELL, axis=2)


def make(num_envs: int) -> Catch:
    """For `--environment.env tests.helpers.catch:make`."""
    return Catch(num_envs)


def make_truncated(num_envs: int) -> Catch:
    """Episodes that a time limit ends after 4 steps."""
    return Catch(num_envs, time_limit=4)


def make_staggered(num_envs: int) -> Catch:
    """Time limits of 3, 4 and 5 steps in turns, so that episodes do not end together."""
    return Catch(num_envs, time_limit=3 + np.arange(num_envs) % 3)
