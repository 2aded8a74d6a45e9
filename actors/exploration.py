"""Exploration: DQN's linear epsilon schedule and Ape-X's ladder."""

import numpy as np
from numpy.typing import NDArray

from actors.config import ExplorationConfig


def linear_epsilon(config: ExplorationConfig, decay_steps_done: int) -> float:
    """Return epsilon `decay_steps_done` fleet env steps after the end of the warm-up (below 0: during it)."""
    share = min(1.0, max(0.0, decay_steps_done / config.epsilon_decay_steps))
    return config.epsilon_start + share * (config.epsilon_end - config.epsilon_start)


def ladder_position(index: int) -> float:
    """Return the position in [0, 1] of the fleet's environment `index`: 0, 1, then van der Corput's 1/2, 1/4,
    3/4, 1/8, ...

    The first N positions are spread evenly for every N, so that adding or removing an actor moves no other;
    the ends of the ladder come first, and N = 1 has position 0.
    """
    if index < 2:
        return float(index)
    # The binary digits of index - 1, lowest first, become the digits after the binary point.
    position, digit_value, rest = 0.0, 0.5, index - 1
    while rest:
        position += digit_value * (rest & 1)
        digit_value, rest = digit_value / 2, rest >> 1
    return position


def ladder_epsilons(config: ExplorationConfig, *, slot: int, num_envs: int) -> NDArray[np.float64]:
    """Return the (num_envs,) fixed epsilons of an actor's environments: base ** (1 + exponent * position).

    Source: Horgan et al., 2018, Distributed Prioritized Experience Replay, arXiv 1803.00933. There the
    position of actor i of N is i / (N - 1), which would move every actor when N changes.
    """
    # Positions are numbered over the whole fleet, not within the actor.
    first = slot * num_envs
    positions = np.array([ladder_position(first + env) for env in range(num_envs)])
    return config.ladder_base ** (1.0 + config.ladder_exponent * positions)


class Epsilons:
    """The epsilon of each environment of one actor."""

    def __init__(self, config: ExplorationConfig, *, slot: int, num_envs: int, warm_up_steps: int) -> None:
        self._config = config
        self._num_envs = num_envs
        self._warm_up_steps = warm_up_steps
        self._ladder = ladder_epsilons(config, slot=slot, num_envs=num_envs)

    def at(self, env_steps: int) -> NDArray[np.float64]:
        """Return the (E,) epsilons after `env_steps` env steps of the fleet, warm-up included."""
        if self._config.kind == "ladder":
            return self._ladder
        return np.full(self._num_envs, linear_epsilon(self._config, env_steps - self._warm_up_steps))

    def metrics(self, env_steps: int) -> dict[str, float]:
        """Return the mean epsilon at `env_steps`, and for a ladder also this actor's smallest and largest."""
        epsilons = self.at(env_steps)
        mean = {"actors/epsilon": float(epsilons.mean())}
        if self._config.kind == "linear":
            return mean
        return mean | {
            "actors/epsilon_min": float(epsilons.min()),
            "actors/epsilon_max": float(epsilons.max()),
        }
