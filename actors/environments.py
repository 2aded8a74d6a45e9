"""Makes environments behind one small interface: Atari, MinAtar, Gymnasium ids and `module:callable`."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.games.atari import AtariEnvironment, list_games, normalise_game
from actors.games.minatar import MinAtarEnvironment, is_minatar
from actors.vector_environment import (
    ON,
    EnvironmentFailed,
    EnvironmentSetupError,
    EnvironmentSpec,
    StepResult,
    VectorEnvironment,
)
from apexpert.errors import ApexpertError
from apexpert.users_code import explained
from replay.types import FrameShape

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
    if is_minatar(config.env):
        return MinAtarEnvironment(config, num_envs, seeds)
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
    """A Gymnasium vector environment with frames (H, W) or (H, W, C) of uint8 or bool, and discrete actions.

    Colour, uint8 of 3 channels, becomes grey. Any other channels are kept, as planes before the sides:
    (C, H, W). Zeros and ones become 0 and 255.

    `name` is a Gymnasium id (also `module:Id-v0`), or `module:callable`, where `callable(num_envs)` gives a
    `gymnasium.vector.VectorEnv` that resets itself on the next step and takes one seed an environment.
    """

    def __init__(self, name: str, num_envs: int, seeds: NDArray[np.int64]) -> None:
        self._name = name
        with _telling(EnvironmentSetupError, f"--environment.env {name!r} cannot be made", name):
            self._env = _make_vector_env(name, num_envs)
            space, actions = _checked_spaces(name, self._env)
            self.frame_shape = _frame_shape(space)
            self._is_colour, self._is_binary = _is_colour(space), bool(space.high.max() <= 1)
            self._first_action, self.num_actions = int(actions.start), int(actions.n)
        self._seeds = [int(seed) for seed in seeds]
        self._ended = np.zeros(num_envs, bool)
        self._lives: NDArray[Any] | None = None
        self.num_envs = num_envs

    def reset(self) -> NDArray[np.uint8]:
        """(E, *frame_shape) first frames of new episodes, seeded."""
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
        images = np.asarray(observations)
        if self._is_colour:
            return np.rint(images @ LUMA).astype(np.uint8)
        if len(self.frame_shape) == 3:
            images = images.transpose(0, 3, 1, 2)
        # A copy: vector environments may write the next observations into the same array.
        frames = np.array(images, np.uint8, order="C").reshape(self.num_envs, *self.frame_shape)
        return frames * ON if self._is_binary else frames


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


def _checked_spaces(name: str, env: VectorEnv) -> tuple[gymnasium.spaces.Box, gymnasium.spaces.Discrete]:
    """Return the spaces of frames and actions.

    Raises EnvironmentSetupError unless frames, actions and resets are such as actors can use.
    """
    space, actions = env.single_observation_space, env.single_action_space
    if (
        not isinstance(space, gymnasium.spaces.Box)
        or len(space.shape) not in (2, 3)
        or space.dtype not in (np.uint8, np.bool_)
    ):
        raise EnvironmentSetupError(
            f"--environment.env {name!r} gives {space.dtype} observations of shape {space.shape}; "
            "frames must be uint8 or bool of shape (H, W) or (H, W, channels)"
        )
    if not isinstance(actions, gymnasium.spaces.Discrete):
        raise EnvironmentSetupError(
            f"--environment.env {name!r} has actions {actions}; they must be discrete"
        )
    # SAME_STEP replaces an episode's last frame, and DISABLED never resets.
    if env.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
        raise EnvironmentSetupError(f"--environment.env {name!r} must declare autoreset_mode NEXT_STEP")
    return space, actions


def _is_colour(space: gymnasium.spaces.Box) -> bool:
    return space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] == 3


def _frame_shape(space: gymnasium.spaces.Box) -> FrameShape:
    """(H, W) of grey and coloured frames, else (C, H, W)."""
    height, width, *channels = map(int, space.shape)
    return (height, width) if _is_colour(space) or channels in ([], [1]) else (*channels, height, width)
