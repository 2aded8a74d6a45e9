"""Atari games, many at once, by ale-py."""

import difflib
import functools
import re

import numpy as np
from ale_py import ALEInterface, roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.vector_environment import EnvironmentSetupError, StepResult
from replay.types import FrameShape


@functools.cache
def list_games() -> tuple[str, ...]:
    """ROM names of the Atari games that one player can play, of those that ale-py ships."""
    paths = ((name, roms.get_rom_path(name)) for name in sorted(roms.get_all_rom_ids()))
    # Of the others the emulator knows no rewards, and ends the process that asks for them.
    return tuple(name for name, path in paths if path and ALEInterface.isSupportedROM(path))


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
    if letters(bare) in map(letters, roms.get_all_rom_ids()):
        raise EnvironmentSetupError(f"--environment.game {name!r} is a game of several players alone")
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
            # Never reached: the library's limit loses the last frame (decision 0008).
            max_num_frames_per_episode=config.max_frames_per_episode + 2 * config.frame_skip,
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
        self.frame_shape: FrameShape = (config.frame_height, config.frame_width)

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
        # Action 0 is the no-op in every game.
        frames, rewards, terminated, _, info = self._env.step(np.where(plays_noop, 0, actions))
        if self._truncated.any():  # The library resets by itself only where its own game has ended.
            frames, info = self._env.reset(options={"reset_mask": self._truncated})
            # An end in the step after the time limit was the old game's.
            terminated = terminated & ~self._truncated
        # The ends of the step before: this step only resets these environments.
        begins = self._terminated | self._truncated
        valid = ~(begins | self._over | plays_noop)
        # After an end within the no-ops, this step only resets and plays none of them.
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
