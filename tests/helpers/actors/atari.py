"""Our Atari environments and the library's own, and what they answer to rows of actions."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environments import make_environment
from actors.games.atari import AtariEnvironment
from actors.vector_environment import StepResult, VectorEnvironment


def atari(
    game: str = "breakout", num_envs: int = 1, seeds: Sequence[int] | None = None, **settings: Any
) -> AtariEnvironment:
    chosen = np.arange(100, 100 + num_envs) if seeds is None else np.array(seeds)
    environment = make_environment(EnvironmentConfig(game=game, **settings), num_envs, chosen)
    assert isinstance(environment, AtariEnvironment)
    return environment


def library(game: str = "breakout", num_envs: int = 1, **settings: Any) -> AtariVectorEnv:
    """AtariVectorEnv as its defaults make it, but for one thread."""
    return AtariVectorEnv(game, num_envs, num_threads=1, **settings)


def play(
    env: VectorEnvironment, actions: Iterable[NDArray[np.int64]]
) -> tuple[NDArray[np.uint8], list[StepResult]]:
    """All StepResults after a reset, for (T, E) actions."""
    first = env.reset()
    return first, [env.step(row) for row in actions]


def random_actions(steps: int, num_envs: int, num_actions: int = 4, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, num_actions, (steps, num_envs))
