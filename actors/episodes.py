"""What comes out of playing: returns and lengths of whole episodes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.environments import StepResult


@dataclass(frozen=True)
class Episode:
    """A finished episode; `return_` is the undiscounted sum of raw rewards."""

    return_: float
    length: int
    """Env steps."""
    env_slot: int


class EpisodeTracker:
    """Adds up the rewards of E environments until their episodes end."""

    def __init__(self, num_envs: int) -> None:
        self._returns: NDArray[np.float64] = np.zeros(num_envs)
        self._lengths: NDArray[np.int64] = np.zeros(num_envs, np.int64)

    def update(self, result: StepResult) -> list[Episode]:
        """Take in one vector step; gives the episodes that ended with it, in the order of their slots."""
        self._returns = np.where(result.valid, self._returns + result.rewards, 0.0)
        self._lengths = np.where(result.valid, self._lengths + 1, 0)
        ended = np.flatnonzero(result.valid & (result.terminated | result.truncated))
        return [Episode(float(self._returns[env]), int(self._lengths[env]), int(env)) for env in ended]
