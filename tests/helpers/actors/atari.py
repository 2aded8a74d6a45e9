"""Our Atari environments and the library's own, and what they answer to rows of actions."""

import numpy as np
from ale_py.vector_env import AtariVectorEnv

from actors.config import EnvironmentConfig
from actors.environments import AtariEnvironment, make_environment


def atari(game="breakout", num_envs=1, seeds=None, **settings) -> AtariEnvironment:
    seeds = np.arange(100, 100 + num_envs) if seeds is None else np.array(seeds)
    return make_environment(EnvironmentConfig(game=game, **settings), num_envs, seeds)


def library(game="breakout", num_envs=1, **settings) -> AtariVectorEnv:
    """AtariVectorEnv as its defaults make it, but for one thread."""
    return AtariVectorEnv(game, num_envs, num_threads=1, **settings)


def play(env, actions):
    """All StepResults after a reset, for (T, E) actions."""
    first = env.reset()
    return first, [env.step(row) for row in actions]


def random_actions(steps, num_envs, num_actions=4, seed=0):
    return np.random.default_rng(seed).integers(0, num_actions, (steps, num_envs))
