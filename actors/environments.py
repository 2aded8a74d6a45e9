"""Makes environments behind one small interface: Atari, Gymnasium ids and `module:callable`."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from actors.atari import AtariEnvironment, list_games, normalise_game
from actors.config import EnvironmentConfig
from actors.vector_environment import (
    EnvironmentFailed,
    EnvironmentSetupError,
    EnvironmentSpec,
    StepResult,
    VectorEnvironment,
)
from apexpert.errors import ApexpertError
from apexpert.users_code import explained

__all__ = [
    "EnvironmentFailed",
    "EnvironmentSetupError",
    "EnvironmentSpec",
    "StepResult",
    "VectorEnvironment",
    "describe_environment",
    "environment_seeds",
    "list_games",
    "make_environment",
    "normalise_game",
]


def environment_seeds(seed: int, slot: int, incarnation: int, num_envs: int) -> NDArray[np.int64]:
    """(num_envs,) 31-bit seeds hashed from (run seed, actor slot, incarnation, env); no two streams alike.

    Consecutive integers would make actors seeded 0 and 1 play the same games in all environments but one.
    """
    sequences = (np.random.SeedSequence([seed, slot, incarnation, env]) for env in range(num_envs))
    return np.array([int(s.generate_state(1)[0]) & 0x7FFFFFFF for s in sequences], dtype=np.int64)


def make_environment(config: EnvironmentConfig, num_envs: int, seeds: NDArray[np.int64]) -> VectorEnvironment:
    """Make `num_envs` environments, one of (num_envs,) non-negative 31-bit `seeds` each.

    Raises EnvironmentSetupError when the game or environment is unknown or does not give uint8 frames.
    """
    if seeds.shape != (num_envs,):
        raise ValueError(f"one seed an environment: {num_envs} environments, seeds of shape {seeds.shape}")
    if config.env:
        return GymnasiumEnvironment(config.env, num_envs, seeds)
    return AtariEnvironment(config, num_envs, seeds)


def describe_environment(config: EnvironmentConfig) -> EnvironmentSpec:
    """Frame shape and number of actions, found by making one environment; raises EnvironmentSetupError."""
    environment = make_environment(config, 1, np.zeros(1, np.int64))
    try:
        return EnvironmentSpec(environment.frame_shape, environment.num_actions)
    finally:
        environment.close()


LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


class GymnasiumEnvironment:
    """A Gymnasium vector environment with uint8 frames (H, W), (H, W, 1) or (H, W, 3) and discrete actions.

    Colour becomes grey.

    `name` is a Gymnasium id (also `module:Id-v0`), or `module:callable`, where `callable(num_envs)` gives a
    `gymnasium.vector.VectorEnv` that resets itself on the next step and takes one seed an environment.
    """

    def __init__(self, name: str, num_envs: int, seeds: NDArray[np.int64]) -> None:
        self._name = name
        with _telling(EnvironmentSetupError, f"--environment.env {name!r} cannot be made", name):
            self._env = _make_vector_env(name, num_envs)
            self.frame_shape, actions = _checked_spaces(name, self._env)
            self._first_action, self.num_actions = int(actions.start), int(actions.n)
        self._seeds = [int(seed) for seed in seeds]
        self._ended = np.zeros(num_envs, bool)
        self._lives: NDArray[Any] | None = None
        self.num_envs = num_envs

    def reset(self) -> NDArray[np.uint8]:
        """(E, H, W) first frames of new episodes, seeded."""
        with self._playing("reset"):
            observations, info = self._env.reset(seed=self._seeds)  # type: ignore[arg-type]
        self._ended[:] = False
        self._lives = _lives(info)
        return self._frames(observations)

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """Apply (E,) actions."""
        # Actions count from 0 here, while a Discrete space may start elsewhere.
        with self._playing("step"):
            observations, rewards, ends, limits, info = self._env.step(actions + self._first_action)
        valid = ~self._ended
        lives = _lives(info)
        life_lost = np.zeros(self.num_envs, bool)
        if lives is not None and self._lives is not None:
            life_lost = valid & (lives < self._lives)
        self._lives = lives
        terminated, truncated = np.array(ends, bool), np.array(limits, bool)
        self._ended = terminated | truncated
        rewards = np.where(valid, rewards, 0).astype(np.float32)
        return StepResult(
            self._frames(observations), rewards, terminated, truncated & ~terminated, life_lost, valid
        )

    def close(self) -> None:
        """Close the environments."""
        self._env.close()

    def _playing(self, method: str) -> contextlib.AbstractContextManager[None]:
        return _telling(EnvironmentFailed, f"--environment.env {self._name!r} fails in {method}")

    def _frames(self, observations: Any) -> NDArray[np.uint8]:
        if np.ndim(observations) == 4 and np.shape(observations)[3] == 3:
            return np.rint(np.asarray(observations) @ LUMA).astype(np.uint8)
        # A copy: vector environments may write the next observations into the same array.
        return np.array(observations, np.uint8).reshape(self.num_envs, *self.frame_shape)


def _lives(info: dict[str, Any]) -> NDArray[Any] | None:
    """The lives of each environment (E,), where they are told; a copy for the same reason as the frames."""
    return np.array(info["lives"]) if "lives" in info else None


@contextlib.contextmanager
def _telling(kind: type[ApexpertError], what: str, name: str = "") -> Iterator[None]:
    """Turn whatever the user's code raises into a `kind` of one line, with its file and line."""
    try:
        yield
    except ApexpertError:
        raise
    # SystemExit: the file may be a script that ends by itself.
    except (Exception, SystemExit) as error:
        raise kind(f"{what}: {explained(error, name.partition(':')[0])}") from error


def _make_vector_env(name: str, num_envs: int) -> VectorEnv:
    """Make the vector environment behind `--environment.env`; raises whatever stops that."""
    module_name, _, attribute = name.partition(":")
    # An id such as `Id-v0` is no identifier, because of its hyphen.
    if attribute.isidentifier():
        env = getattr(importlib.import_module(module_name), attribute)(num_envs)
    else:
        mode = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        module_name, _, identity = name.rpartition(":")
        if module_name:
            importlib.import_module(module_name)
        if gymnasium.spec(identity).entry_point is None:  # Only a vector environment is registered.
            env = gymnasium.make_vec(identity, num_envs, vectorization_mode="vector_entry_point")
        else:
            env = gymnasium.make_vec(identity, num_envs, vectorization_mode="sync", vector_kwargs=mode)
    if not isinstance(env, VectorEnv):
        raise EnvironmentSetupError(
            f"--environment.env {name!r} gives {type(env).__name__}, not a gymnasium VectorEnv"
        )
    return env


def _checked_spaces(name: str, env: VectorEnv) -> tuple[tuple[int, int], gymnasium.spaces.Discrete]:
    """Return (H, W) of the frames and the actions.

    Raises EnvironmentSetupError unless frames, actions and resets are such as actors can use.
    """
    space, actions = env.single_observation_space, env.single_action_space
    shape = space.shape or ()
    if space.dtype != np.uint8 or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))):
        raise EnvironmentSetupError(
            f"--environment.env {name!r} gives {space.dtype} observations of shape {shape}; "
            "frames must be uint8 of shape (H, W), (H, W, 1) or (H, W, 3)"
        )
    if not isinstance(actions, gymnasium.spaces.Discrete):
        raise EnvironmentSetupError(
            f"--environment.env {name!r} has actions {actions}; they must be discrete"
        )
    # SAME_STEP replaces an episode's last frame, and DISABLED never resets.
    if env.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
        raise EnvironmentSetupError(f"--environment.env {name!r} must declare autoreset_mode NEXT_STEP")
    return (int(shape[0]), int(shape[1])), actions
