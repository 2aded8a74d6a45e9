"""Returns and lengths of whole episodes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.environments import StepResult


class Episode(NamedTuple):
    """A finished episode."""

    return_: float
    """Undiscounted sum of raw rewards."""
    length: int
    """Length in env steps."""
    env_slot: int | None = None
    """Index of its environment within its actor; None in records written without it."""
    epsilon: float | None = None
    """Epsilon of its last step, without the network's noise; None as for `env_slot`."""
    actor_slot: int | None = None
    """Slot of its actor in the fleet; None until the fleet has received the episode."""


class EpisodeTracker:
    """Sums the rewards of E environments until their episodes end."""

    def __init__(self, num_envs: int) -> None:
        self._returns: NDArray[np.float64] = np.zeros(num_envs)
        self._lengths: NDArray[np.int64] = np.zeros(num_envs, np.int64)
        self._partial: NDArray[np.bool_] = np.zeros(num_envs, bool)
        """The game is under way, and a step of it was refused."""

    def update(
        self,
        result: StepResult,
        epsilon: NDArray[np.float64] | float,
        refused: NDArray[np.bool_] | bool = False,
    ) -> list[Episode]:
        """Add one vector step that was made with `epsilon`, one number or (E,).

        `refused` (E,) are steps that `result` calls not valid though their games go on. Returns the episodes
        that ended with the step, ordered by env slot, without those of which a step was refused.
        """
        self._partial = refused | (self._partial & result.valid)
        # A step that is not valid is no part of an episode: both sums start again from 0.
        self._returns = np.where(result.valid, self._returns + result.rewards, 0.0)
        self._lengths = np.where(result.valid, self._lengths + 1, 0)
        epsilons = np.broadcast_to(epsilon, self._returns.shape)
        ended = np.flatnonzero(result.valid & (result.terminated | result.truncated) & ~self._partial)
        return [
            Episode(float(self._returns[env]), int(self._lengths[env]), int(env), float(epsilons[env]))
            for env in ended
        ]
