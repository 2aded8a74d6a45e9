"""Acting on the CPU: stacks of frames, a copy of the network, its noise and the epsilon-greedy choice."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.arrays import Weights, load
from models.config import NetworkConfig
from models.precision import Precision, choose_dtype
from models.q_network import QNetwork, build_network
from replay.types import FrameShape, stacked_shape


@dataclass(frozen=True)
class Actions:
    """Actions for E environments, and the network's values of them."""

    action: NDArray[np.int64]
    """(E,)"""
    q_taken: NDArray[np.float32] | None
    """(E,) value of the chosen action, or None if values were not requested."""
    q_max: NDArray[np.float32] | None
    """(E,) largest value, or None if values were not requested."""


class FrameStacks:
    """Rolling frame stacks of E environments; frames before an episode's first are zeros."""

    def __init__(self, num_envs: int, stack: int, frame_shape: FrameShape) -> None:
        self._stacks = np.zeros((num_envs, stack, *frame_shape), np.uint8)
        # The same memory, with the planes of a stack's frames after each other.
        self._observations = self._stacks.reshape(num_envs, *stacked_shape(frame_shape, stack))

    @property
    def observations(self) -> NDArray[np.uint8]:
        """(E, K, H, W), oldest frame first; overwritten by the next `reset` or `push`."""
        return self._observations

    def reset(self, frames: NDArray[np.uint8]) -> None:
        """Begin an episode in all environments with (E, *frame_shape) first frames."""
        self._stacks[:] = 0
        self._stacks[:, -1] = frames

    def push(self, frames: NDArray[np.uint8], goes_on: NDArray[np.bool_]) -> None:
        """Add the (E, *frame_shape) newest frames; where `goes_on` (E,) is False they begin a new episode."""
        # NumPy assigns overlapping slices as if the source were copied first.
        self._stacks[:, :-1] = self._stacks[:, 1:]
        # Cleared before the newest frame goes in: that frame is the new episode's first.
        self._stacks[~goes_on] = 0
        self._stacks[:, -1] = frames


class Policy:
    """Epsilon-greedy policy over a noisy or plain Q-network, on as many threads as the process has.

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
        """The network that chooses actions, in the data type of acting."""
        return self._network

    def load(self, weights: Weights) -> None:
        """Load published weights; raise ValueError if they belong to a different network."""
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
        """Return actions for (E, K, H, W) uint8 observations; `epsilon` is one number or (E,).

        Every environment gets its own draw of the network's noise at each step; with `noise` False the
        network acts by its mean weights, and what every pass draws (`phi`, `shuffle`) is still drawn. With
        `values` False, environments that explore skip the network.
        """
        count = len(observations)
        # Drawn for all environments, so that the stream does not depend on who explores.
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
        """Return the (B, A) values of (B, K, H, W) observations, with one draw of noise per row."""
        with torch.inference_mode():
            draw = self._network.sample_noise(self._noise_generator, len(observations), layers=noise)
            output = self._network(torch.from_numpy(observations), draw)
            return np.asarray(output.q_values.numpy())
