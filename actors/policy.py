"""Acting on the CPU: a copy of the network, its noise, and the epsilon-greedy choice, all in one batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from models.arrays import Weights, load
from models.config import NetworkConfig
from models.q_network import QNetwork, build_network

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Actions:
    """What E environments are to do, and what the network thought of it."""

    action: NDArray[np.int64]
    """(E,)"""
    q_taken: NDArray[np.float32] | None
    """(E,) value of that action, or None if values were not asked for."""
    q_max: NDArray[np.float32] | None
    """(E,) largest value, or None if values were not asked for."""


def choose_dtype(precision: Precision) -> torch.dtype:
    """Data type of acting; `auto` takes bfloat16 where the CPU has instructions for it."""
    if precision == "auto":
        # Older versions of torch cannot say what the CPU has: float32 is the safe choice then.
        capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        fast = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


class Policy:
    """Epsilon-greedy over a noisy or plain Q-network, on as many threads as the process was given.

    The whole network is kept in the data type of acting, channels-last: casting once, when weights are
    loaded, is 5 to 30 % faster here than autocast over float32 weights, with the same error in the values.
    """

    def __init__(
        self,
        network: NetworkConfig,
        *,
        observation_shape: tuple[int, int, int],
        num_actions: int,
        precision: Precision = "auto",
        seed: int = 0,
    ) -> None:
        network_seed, noise_seed, choice_seed = np.random.SeedSequence(seed).generate_state(3)
        self.num_actions = num_actions
        self.observation_shape = observation_shape
        self.weights_version = -1
        built = build_network(
            network, num_actions, observation_shape=observation_shape, seed=int(network_seed)
        )
        self._network = built.to(choose_dtype(precision)).eval().requires_grad_(False)
        self._noise_generator = torch.Generator().manual_seed(int(noise_seed))
        self._random = np.random.default_rng(choice_seed)

    @property
    def network(self) -> QNetwork:
        """What it acts by, in the data type of acting."""
        return self._network

    def load(self, weights: Weights) -> None:
        """Take over published weights; raises ValueError if they are of another network."""
        load(self._network, weights.parameters)
        self.weights_version = weights.version

    def act(
        self,
        observations: NDArray[np.uint8],
        epsilon: NDArray[np.float64] | float,
        *,
        noise: bool = True,
        values: bool = True,
    ) -> Actions:
        """Actions for (E, K, H, W) uint8 observations; `epsilon` is one number or (E,).

        Every environment has its own draw of the network's noise, and a new one each step; `noise` False acts
        by the means. With `values` False the network is not asked about environments that explore anyway.
        """
        count = len(observations)
        explores = self._random.random(count) < epsilon
        action = self._random.integers(self.num_actions, size=count)
        asked = np.arange(count) if values else np.flatnonzero(~explores)
        if not len(asked):
            return Actions(action, None, None)
        q_values = self._q_values(observations[asked], noise)
        greedy = np.zeros(count, np.int64)
        greedy[asked] = q_values.argmax(axis=1)
        action = np.where(explores, action, greedy)
        if not values:
            return Actions(action, None, None)
        return Actions(action, q_values[np.arange(count), action], q_values.max(axis=1))

    def _q_values(self, observations: NDArray[np.uint8], noise: bool) -> NDArray[np.float32]:
        """(B, A) values of (B, K, H, W) observations, with a draw of noise for each row."""
        with torch.inference_mode():
            draw = self._network.sample_noise(self._noise_generator, len(observations)) if noise else None
            output = self._network(torch.from_numpy(observations), draw)
            return np.asarray(output.q_values.float().numpy())
