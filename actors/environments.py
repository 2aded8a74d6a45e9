"""Vector environments behind one small interface: Atari, Gymnasium ids and `module:callable`.

Every environment here resets itself on the step after an end (Gymnasium's NEXT_STEP). That step answers
with the new episode's first frame and is no transition: `StepResult.valid` is False for it. So the true last
frame of an episode is always seen, with its end, on the step before.
"""

import difflib
import importlib
import re
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from apexpert.errors import ApexpertError


class EnvironmentSetupError(ApexpertError):
    """An environment cannot be made or does not fit; the message is one line that names the flag."""


@dataclass(frozen=True)
class StepResult:
    """What E environments answered to one action each."""

    frames: NDArray[np.uint8]
    """(E, H, W) newest single frame; the true last one of an episode that just ended."""
    rewards: NDArray[np.float32]
    """(E,) raw."""
    terminated: NDArray[np.bool_]
    """(E,) a true end."""
    truncated: NDArray[np.bool_]
    """(E,) a time limit, never together with a true end."""
    life_lost: NDArray[np.bool_]
    """(E,) a life was lost in this step; the game may go on."""
    valid: NDArray[np.bool_]
    """(E,) False: the reset after an end, no transition; `frames` has the new episode's first frame."""


class EnvironmentSpec(NamedTuple):
    """What the network and the replay need to know of an environment."""

    frame_shape: tuple[int, int]
    num_actions: int


class VectorEnvironment(Protocol):
    """E environments stepped as one, each resetting itself on the step after its episode's end."""

    num_envs: int
    num_actions: int
    frame_shape: tuple[int, int]

    def reset(self) -> NDArray[np.uint8]:
        """Start all episodes with the seeds given at construction; (E, H, W) first frames."""

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """Apply (E,) actions; those of environments that are about to reset are ignored."""

    def close(self) -> None:
        """Free what the environments hold."""


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


def list_games() -> list[str]:
    """ROM names of all Atari games that ale-py ships."""
    return sorted(roms.get_all_rom_ids())


def normalise_game(name: str) -> str:
    """ROM name of a game written as `ms_pacman`, `MsPacman`, `ms-pacman` or `ALE/MsPacman-v5`.

    Raises EnvironmentSetupError with near matches.
    """

    def letters(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower())

    bare = re.sub(r"(NoFrameskip|Deterministic)?-v\d+$", "", name.removeprefix("ALE/"))
    games = {letters(game): game for game in list_games()}
    if letters(bare) in games:
        return games[letters(bare)]
    near = [games[match] for match in difflib.get_close_matches(letters(bare), games, n=3)]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise EnvironmentSetupError(f"--environment.game {name!r} is not an Atari game{hint}")


class AtariEnvironment:
    """Atari games by ale_py's AtariVectorEnv on one thread, every setting given.

    `info["lives"]` tells lost lives: `life_loss_info` would mix them into `terminated`, and `episodic_life`
    would reset the whole game. The time limit is kept here, because ale-py 0.12 leaves the newest frame out
    of the last observation when its own limit ends a step; a truncated state still bootstraps, so its frame
    matters. Frames come as a stack of one; stacks are made by whoever needs them. No-ops are played here,
    because the library's are single frames; while an environment plays them its steps are not valid.
    """

    def __init__(self, config: EnvironmentConfig, num_envs: int, seeds: NDArray[np.int64]) -> None:
        self._env = AtariVectorEnv(
            normalise_game(config.game),
            num_envs,
            batch_size=num_envs,
            num_threads=1,
            thread_affinity_offset=-1,
            max_num_frames_per_episode=config.max_frames_per_episode + 2 * config.frame_skip,  # never reached
            repeat_action_probability=config.repeat_action_probability,
            full_action_space=config.full_action_space,
            continuous=False,
            autoreset_mode=AutoresetMode.NEXT_STEP,
            img_height=config.frame_height,
            img_width=config.frame_width,
            grayscale=True,
            stack_num=1,
            frameskip=config.frame_skip,
            maxpool=True,
            noop_max=0,
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=False,
        )
        self._seeds = seeds
        self._max_frames = config.max_frames_per_episode
        self._noop_max = config.noop_max
        # The spawn key keeps these streams apart from the environments' own.
        self._random = [np.random.default_rng(np.random.SeedSequence(int(s), spawn_key=(1,))) for s in seeds]
        self._noops = np.zeros(num_envs, np.int64)
        """No-ops still to be played."""
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)
        self._over = np.zeros(num_envs, bool)
        """Ended during its no-ops: the next step begins another game, and plays the rest of them."""
        self._lives = np.zeros(num_envs, np.int32)
        self.num_envs = num_envs
        self.num_actions = len(self._env.ale.get_action_set())
        self.frame_shape = (config.frame_height, config.frame_width)

    def reset(self) -> NDArray[np.uint8]:
        """(E, H, W) first frames of new games, seeded."""
        frames, info = self._env.reset(seed=self._seeds)
        self._terminated[:] = self._truncated[:] = self._over[:] = False
        self._noops[:] = 0
        self._draw_noops(np.ones(self.num_envs, bool))
        self._lives = info["lives"]
        return frames[:, 0]

    def _draw_noops(self, begins: NDArray[np.bool_]) -> None:
        """For environments that begin an episode."""
        if self._noop_max:
            for env in np.flatnonzero(begins):
                self._noops[env] = self._random[env].integers(self._noop_max + 1)

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """Repeat (E,) actions for `frame_skip` frames each, sticky as configured."""
        plays_noop = self._noops > 0
        frames, rewards, terminated, _, info = self._env.step(np.where(plays_noop, 0, actions))
        if self._truncated.any():  # the library resets by itself only where its own game has ended
            frames, info = self._env.reset(options={"reset_mask": self._truncated})
        begins = self._terminated | self._truncated
        valid = ~(begins | self._over | plays_noop)
        self._noops -= plays_noop & ~self._over
        self._draw_noops(begins)
        self._over = terminated & ~valid
        lives = info["lives"]
        life_lost = valid & (lives < self._lives)
        self._lives = lives
        self._terminated = terminated & valid
        self._truncated = valid & ~terminated & (info["episode_frame_number"] >= self._max_frames)
        return StepResult(
            frames[:, 0],
            np.where(valid, rewards, 0).astype(np.float32),
            self._terminated,
            self._truncated,
            life_lost,
            valid,
        )

    def close(self) -> None:
        """Free the emulators."""
        self._env.close()


LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


class GymnasiumEnvironment:
    """A Gymnasium vector environment with uint8 frames (H, W), (H, W, 1) or (H, W, 3) and discrete actions.

    Colour becomes grey.

    `name` is a Gymnasium id (also `module:Id-v0`), or `module:callable`, where `callable(num_envs)` gives a
    `gymnasium.vector.VectorEnv` that resets itself on the next step and takes one seed an environment.
    """

    def __init__(self, name: str, num_envs: int, seeds: NDArray[np.int64]) -> None:
        self._env = _make_vector_env(name, num_envs)
        space, actions = self._env.single_observation_space, self._env.single_action_space
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
        if self._env.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
            raise EnvironmentSetupError(f"--environment.env {name!r} must declare autoreset_mode NEXT_STEP")
        self._seeds = [int(seed) for seed in seeds]
        self._first_action = int(actions.start)
        self._ended = np.zeros(num_envs, bool)
        self._lives: NDArray[Any] | None = None
        self.num_envs = num_envs
        self.num_actions = int(actions.n)
        self.frame_shape = (int(shape[0]), int(shape[1]))

    def reset(self) -> NDArray[np.uint8]:
        """(E, H, W) first frames of new episodes, seeded."""
        observations, info = self._env.reset(seed=self._seeds)  # type: ignore[arg-type]
        self._ended[:] = False
        self._lives = info.get("lives")
        return self._frames(observations)

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """Apply (E,) actions."""
        observations, rewards, ends, limits, info = self._env.step(actions + self._first_action)
        valid = ~self._ended
        lives = info.get("lives")
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

    def _frames(self, observations: Any) -> NDArray[np.uint8]:
        if np.ndim(observations) == 4 and np.shape(observations)[3] == 3:
            return np.rint(np.asarray(observations) @ LUMA).astype(np.uint8)
        # A copy: vector environments may write the next observations into the same array.
        return np.array(observations, np.uint8).reshape(self.num_envs, *self.frame_shape)


def _make_vector_env(name: str, num_envs: int) -> VectorEnv:
    """The vector environment behind `--environment.env`; what stops it is an EnvironmentSetupError."""
    module_name, _, attribute = name.partition(":")
    try:
        if attribute.isidentifier():
            env = getattr(importlib.import_module(module_name), attribute)(num_envs)
        else:
            mode = {"autoreset_mode": AutoresetMode.NEXT_STEP}
            module_name, _, identity = name.rpartition(":")
            if module_name:
                importlib.import_module(module_name)
            if gymnasium.spec(identity).entry_point is None:  # there is a vector environment, and no other
                env = gymnasium.make_vec(identity, num_envs, vectorization_mode="vector_entry_point")
            else:
                env = gymnasium.make_vec(identity, num_envs, vectorization_mode="sync", vector_kwargs=mode)
    except (ImportError, AttributeError, TypeError, ValueError, gymnasium.error.Error) as error:
        reason = " ".join(str(error).split())
        raise EnvironmentSetupError(f"--environment.env {name!r} cannot be made: {reason}") from error
    if not isinstance(env, VectorEnv):
        raise EnvironmentSetupError(
            f"--environment.env {name!r} gives {type(env).__name__}, not a gymnasium VectorEnv"
        )
    return env
