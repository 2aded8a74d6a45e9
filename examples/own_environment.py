"""Train on an environment of your own: any callable that makes a Gymnasium vector environment.

python examples/own_environment.py [ENV_STEPS], or in this folder:
apexpert train --env own_environment:make
"""

import sys
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

import apexpert

EPISODE_STEPS = 20


class Lights(VectorEnv):
    """The left or the right half of the image lights up; the reward is 1 for the action of that side."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.single_observation_space = gymnasium.spaces.Box(0, 255, (84, 84), np.uint8)
        self.single_action_space = gymnasium.spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin all episodes; `seed` is one an environment."""
        self._random = [np.random.default_rng(each) for each in seed or [None] * self.num_envs]
        self._steps = np.zeros(self.num_envs, int)
        return self._light_up(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Reward what was right; an environment that has ended begins anew, whatever the action."""
        begins = self._steps == EPISODE_STEPS
        rewards = np.where(begins, 0.0, actions == self._sides)
        self._steps = np.where(begins, 0, self._steps + 1)
        ends = self._steps == EPISODE_STEPS
        return self._light_up(), rewards, ends, np.zeros(self.num_envs, bool), {}

    def _light_up(self) -> Any:
        self._sides = np.array([random.integers(2) for random in self._random])
        frames = np.zeros((self.num_envs, 84, 84), np.uint8)
        for frame, side in zip(frames, self._sides, strict=True):
            frame[:, 42 * side : 42 * side + 42] = 255
        return frames


def make(num_envs: int) -> VectorEnv:
    """Make the environment for `--env own_environment:make`."""
    return Lights(num_envs)


def main(total_env_steps: int = 20_000) -> None:
    """Train on it, and print the mean return of the last episodes: 10 by chance, 20 at best."""
    config = apexpert.preset(
        "laptop", env="own_environment:make", epsilon_decay_steps=2_000, total_env_steps=total_env_steps
    )
    with apexpert.train(config) as run:
        metrics = run.wait()["metrics"]
    print(f"{run.name}: mean return {metrics['episode/return_mean_100']:.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
