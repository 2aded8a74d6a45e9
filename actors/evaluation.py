"""Evaluation: full games under the policy, with as little randomness as the protocol allows."""

import contextlib
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environments import environment_seeds, make_environment
from actors.episodes import Episode, EpisodeTracker
from actors.policy import Actions, FrameStacks
from actors.rendering import EpisodeRecording, Recorder

EVALUATION_SLOT = 2**31
"""Stands in for an actor's slot in the seeds, so that no actor has played these games."""


class Player(Protocol):
    """Chooses actions, as `Policy` does."""

    def act(
        self,
        observations: NDArray[np.uint8],
        epsilon: NDArray[np.float64] | float,
        *,
        noise: bool,
        values: bool,
    ) -> Actions:
        """See `Policy.act`."""


def episode_quotas(episodes: int, num_envs: int) -> NDArray[np.int64]:
    """Return how many episodes each environment plays; the numbers differ by at most one.

    They are fixed beforehand: taking whichever episodes end first would favour short ones, mostly bad games.
    """
    quotas = np.full(num_envs, episodes // num_envs, np.int64)
    quotas[: episodes % num_envs] += 1
    return quotas


def evaluate(
    policy: Player,
    environment: EnvironmentConfig,
    *,
    episodes: int,
    seed: int,
    epsilon: float = 0.001,
    life_loss_terminates: bool = False,
    num_envs: int = 8,
    recorder: Recorder | None = None,
    window: bool = False,
    progress: Callable[[Episode], object] = lambda episode: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Episode]:
    """Play `episodes` full games, with sticky actions as configured and the network's noise off.

    With `life_loss_terminates` the frame stack is cleared after a lost life, as it is in training.
    `recorder` receives one scene per env step of environment 0 in its first episode, its picture RGB
    (210, 160, 3) for Atari games, else the frame as `actors.rendering.picture_of` shows it. `window` shows
    the same episode of an Atari game while it is played, at the game's own speed, or raises NoWindow.
    `progress` receives each episode as it ends. When told to stop, returns the episodes that have ended.
    Raises EnvironmentSetupError.
    """
    finished: list[Episode] = []
    remaining = episode_quotas(episodes, min(num_envs, episodes))
    seeds = environment_seeds(seed, EVALUATION_SLOT, 0, len(remaining))
    with contextlib.closing(make_environment(environment, len(remaining), seeds)) as env:
        stacks = FrameStacks(env.num_envs, environment.stack, env.frame_shape)
        tracker = EpisodeTracker(env.num_envs)
        recording = EpisodeRecording(recorder, environment, int(seeds[0]), window=window)
        frames = env.reset()
        stacks.reset(frames)
        recording.begin(frames)
        while remaining.any() and not should_stop():
            playing = np.flatnonzero(remaining)
            # Environments that have played their quota are stepped with no-ops; their games do not count.
            actions = np.zeros(env.num_envs, np.int64)
            chosen = policy.act(stacks.observations[playing], epsilon, noise=False, values=False)
            actions[playing] = chosen.action
            result = env.step(actions)
            stacks.push(result.frames, result.valid & ~(result.life_lost & life_loss_terminates))
            recording.step(int(actions[0]), result)
            for episode in tracker.update(result, epsilon):
                if remaining[episode.env_slot]:
                    remaining[episode.env_slot] -= 1
                    finished.append(episode)
                    progress(episode)
    return finished
