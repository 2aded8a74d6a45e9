"""A player that records what the experts look at."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from actors.policy import Actions, Policy
from actors.rendering import Scene
from deploy.reports.experts.attention import attention_of
from deploy.reports.experts.heat import Moment
from models.q_network import QNetwork


class Moments:
    """Keeps moments evenly spread over a game of unknown length: never more than twice `at_least` and, if the
    game is long enough, never fewer than `at_least`."""

    def __init__(self, at_least: int) -> None:
        self.kept: list[Moment] = []
        self._most, self._every, self._seen = 2 * at_least, 1, 0

    def add(self, moment: Moment) -> None:
        """Add the next moment of the game."""
        if self._seen % self._every == 0:
            self.kept.append(moment)
        self._seen += 1
        if len(self.kept) > self._most:
            # Every second of them is a multiple of the doubled interval: the spread stays even.
            self.kept, self._every = self.kept[::2], 2 * self._every


class Watcher:
    """A policy for one environment that, with each choice, shows what the experts look at.

    Pass `record` as the recorder of the game it plays: each scene belongs to the next observation.
    """

    def __init__(self, policy: Policy, network: QNetwork, watch: Callable[[Moment], object]) -> None:
        self._policy, self._network, self._watch = policy, network, watch
        self._scene: Scene | None = None
        self.env_steps = 0

    def record(self, scene: Scene) -> None:
        """Store the scene to be acted on next."""
        self._scene = scene

    def act(
        self,
        observations: NDArray[np.uint8],
        epsilon: NDArray[np.float64] | float,
        *,
        noise: bool,
        values: bool,
    ) -> Actions:
        """Act like `Policy.act`, on (1, K, H, W)."""
        actions = self._policy.act(observations, epsilon, noise=noise, values=values)
        if self._scene is not None:
            attention = attention_of(self._network, observations[0])
            picture, env_step, return_ = self._scene
            self._watch(Moment(env_step, return_, picture, attention, int(actions.action[0])))
        self.env_steps += 1
        return actions
