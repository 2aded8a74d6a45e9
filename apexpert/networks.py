"""Trained networks from Python: as a torch module, or as a function from observations to actions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.policy import Policy
from deploy.networks.policy import network_of, policy_of
from deploy.networks.trained import Trained, open_trained
from deploy.run.config import Config
from models.q_network import QNetwork

__all__ = ["LoadedPolicy", "load_network", "load_policy"]


def load_network(name: str, *, runs_dir: str = "runs", best: bool = False) -> QNetwork:
    """The trained network of `name`, float32, in eval mode, on the CPU.

    `name` is a run's name under `runs_dir`, a run's folder, a file of `apexpert export`, or a bundled model
    (`bundled:pong`); of a run the newest checkpoint counts, or with `best` the best by evaluation. Called
    with (B, K, H, W) uint8 observations it gives a `NetworkOutput`, whose `q_values` are (B, A).

    Raises ConfigError, RunNotFound, CheckpointError.
    """
    return network_of(open_trained(name, runs_dir, best=best).checkpoint).eval()


def load_policy(
    name: str, *, runs_dir: str = "runs", best: bool = False, epsilon: float | None = None, seed: int = 0
) -> "LoadedPolicy":
    """Load a policy that plays as `apexpert evaluate` does: a function from observations to actions.

    `name`, `runs_dir` and `best` are as in `load_network`. `epsilon` None takes the run's own for evaluation
    (0.001). Raises the same errors.
    """
    trained = open_trained(name, runs_dir, best=best)
    # Compared with None, because an epsilon of 0 is a value.
    return LoadedPolicy(trained, trained.config.evaluation.epsilon if epsilon is None else epsilon, seed)


class LoadedPolicy:
    """Epsilon-greedy over a trained network, without its noise."""

    def __init__(self, trained: Trained, epsilon: float, seed: int) -> None:
        self.config: Config = trained.config
        """Of the run that trained it; `config.environment` says what its observations are made of."""
        self.epsilon = epsilon
        self._policy: Policy = policy_of(trained.config, trained.checkpoint, seed=seed)

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """(K, H, W): the planes of the newest frames, oldest frame first; one plane of each grey frame."""
        return self._policy.observation_shape

    @property
    def num_actions(self) -> int:
        """Actions are 0 to `num_actions` - 1."""
        return self._policy.num_actions

    def __call__(self, observation: Any) -> Any:
        """An action for one observation (K, H, W) uint8, or (B,) actions for (B, K, H, W).

        Raises ValueError for another shape or dtype: a cast would hide a float image of 0 to 1.
        """
        observations = np.asarray(observation)
        is_one = observations.ndim == 3
        batch: NDArray[np.uint8] = observations[None] if is_one else observations
        if batch.shape[1:] != self.observation_shape or batch.dtype != np.uint8:
            wanted = f"uint8 {self.observation_shape}, or a batch of such"
            raise ValueError(f"observation is {observations.dtype} {observations.shape}, not {wanted}")
        actions = self._policy.act(batch, self.epsilon, noise=False, values=False).action
        return int(actions[0]) if is_one else actions
