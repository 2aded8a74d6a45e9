"""What comes out of playing: returns and lengths of whole episodes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.environments import StepResult


class Episode(NamedTuple):
    """A finished episode."""

    return_: float
    """Undiscounted sum of raw rewards."""
    length: int
    """Env steps."""
    env_slot: int | None = None
    """Place of its environment in its actor; None in a record that did not say so."""
    epsilon: float | None = None
    """Epsilon of its last step, noise of the network not counted; None as for `env_slot`."""
    actor_slot: int | None = None
    """Place of its actor in the fleet; None until the fleet has taken it in."""


class EpisodeTracker:
    """Adds up the rewards of E environments until their episodes end."""

    def __init__(self, num_envs: int) -> None:
        self._returns: NDArray[np.float64] = np.zeros(num_envs)
        self._lengths: NDArray[np.int64] = np.zeros(num_envs, np.int64)

    def update(self, result: StepResult, epsilon: NDArray[np.float64] | float) -> list[Episode]:
        """Take in one vector step that was made with `epsilon`, one number or (E,).

        Gives the episodes that ended with it, in the order of their slots.
        """
        self._returns = np.where(result.valid, self._returns + result.rewards, 0.0)
        self._lengths = np.where(result.valid, self._lengths + 1, 0)
        epsilons = np.broadcast_to(epsilon, self._returns.shape)
        ended = np.flatnonzero(result.valid & (result.terminated | result.truncated))
        return [
            Episode(float(self._returns[env]), int(self._lengths[env]), int(env), float(epsilons[env]))
            for env in ended
        ]
