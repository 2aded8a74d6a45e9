"""Environments by Gymnasium id and by `module:callable`, and the one line that says why one does not fit."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from actors.config import EnvironmentConfig
from actors.environments import (
    EnvironmentFailed,
    EnvironmentSetupError,
    describe_environment,
    make_environment,
)
from tests.helpers.catch import Catch


class Counter(gymnasium.Env):
    """Frames (6, 5, 1) filled with the step's number; ends after 3 steps, by a time limit when truncating."""

    def __init__(self, truncating=False, shape=(6, 5, 1), dtype=np.uint8, action_start=0, box_actions=False):
        self.observation_space = gymnasium.spaces.Box(0, 1 if dtype is bool else 255, shape, dtype)
        self.action_space = gymnasium.spaces.Discrete(2, start=action_start)
        if box_actions:
            self.action_space = gymnasium.spaces.Box(-1, 1, (2,))
        self.truncating, self.steps, self.base = truncating, 0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.base = seed
        self.steps = 0
        return self._frame(), {"lives": 3}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        over = self.steps == 3
        ends = (over and not self.truncating, over and self.truncating)
        return self._frame(), float(action), *ends, {"lives": 3 - self.steps // 2}

    def _frame(self):
        return np.full(self.observation_space.shape, self.base + self.steps, self.observation_space.dtype)


@pytest.fixture(autouse=True)
def counters():
    variants = {
        "Counter-v0": {},
        "CounterTruncating-v0": {"truncating": True},
        "CounterFlat-v0": {"shape": (6, 5)},
        "CounterColour-v0": {"shape": (6, 5, 3)},
        "CounterFourChannels-v0": {"shape": (6, 5, 4)},
        "CounterPlanes-v0": {"shape": (6, 5, 3), "dtype": bool},
        "CounterOnesAndZeros-v0": {"shape": (6, 5), "dtype": bool},
        "CounterFourSides-v0": {"shape": (6, 5, 4, 1)},
        "CounterFloat-v0": {"dtype": np.float32},
        "CounterFromOne-v0": {"action_start": 1},
        "CounterBox-v0": {"box_actions": True},
    }
    for name, settings in variants.items():
        gymnasium.register(name, Counter, kwargs=settings, disable_env_checker=True)
    gymnasium.register("CatchOnlyAsVector-v0", vector_entry_point=Catch)
    yield
    for name in (*variants, "CatchOnlyAsVector-v0"):
        del gymnasium.registry[name]


def make(env, num_envs=2):
    return make_environment(EnvironmentConfig(env=env), num_envs, np.arange(10, 10 + 10 * num_envs, 10))


@pytest.mark.parametrize("name", ["Counter-v0", "CounterFlat-v0", "CounterColour-v0"])
def test_a_gymnasium_id_gives_single_frames_and_resets_on_the_next_step(name) -> None:
    env = make(name)
    assert env.frame_shape == (6, 5)
    assert env.num_actions == 2
    first = env.reset()
    results = [env.step(np.array([1, 0])) for _ in range(5)]
    assert first[:, 0, 0].tolist() == [10, 20]  # each environment got its own seed
    assert [r.frames[0, 0, 0] for r in results] == [11, 12, 13, 10, 11]  # 13: the true last frame
    assert [r.terminated[0] for r in results] == [False, False, True, False, False]
    assert [r.valid[0] for r in results] == [True, True, True, False, True]
    assert [r.rewards.tolist() for r in results] == [[1, 0], [1, 0], [1, 0], [0, 0], [1, 0]]
    assert [r.life_lost[0] for r in results] == [False, True, False, False, False]
    assert results[0].frames[0, 0, 0] == 11  # not written over by later steps


def test_colour_becomes_grey_by_brightness() -> None:
    env = make("CounterColour-v0")
    frames = np.zeros((2, 6, 5, 3), np.uint8)
    frames[0, 0, 0], frames[0, 1, 1], frames[1, 2, 2] = (255, 0, 0), (0, 255, 0), (255, 255, 255)
    grey = env._frames(frames)
    assert grey.shape == (2, 6, 5)
    assert (grey[0, 0, 0], grey[0, 1, 1], grey[1, 2, 2], grey[1, 0, 0]) == (76, 150, 255, 0)


def test_other_channels_than_colour_are_kept_as_planes() -> None:
    env = make("CounterFourChannels-v0")
    assert env.frame_shape == (4, 6, 5)
    first = env.reset()
    assert first.shape == (2, 4, 6, 5)
    assert first[:, 0, 0, 0].tolist() == [10, 20]
    seen = np.arange(2 * 6 * 5 * 4, dtype=np.uint8).reshape(2, 6, 5, 4)
    frames = env._frames(seen)
    assert frames.flags.c_contiguous
    assert (frames[1, 2, 3, 4], frames[0, 3, 0, 1]) == (seen[1, 3, 4, 2], seen[0, 0, 1, 3])


def test_planes_of_truths_become_0_and_255() -> None:
    """Three of them are no colour."""
    env = make("CounterPlanes-v0")
    assert env.frame_shape == (3, 6, 5)
    seen = np.zeros((2, 6, 5, 3), bool)
    seen[1, 2, 3, 0] = True
    frames = env._frames(seen)
    assert (frames.dtype, frames.sum(), frames[1, 0, 2, 3]) == (np.uint8, 255, 255)
    flat = make("CounterOnesAndZeros-v0")
    assert flat.frame_shape == (6, 5)
    assert np.unique(flat.reset()).tolist() == [255]


def test_an_id_that_has_a_vector_environment_only() -> None:
    env = make("CatchOnlyAsVector-v0")
    assert (env.frame_shape, env.num_actions) == ((84, 84), 3)
    assert env.reset().shape == (2, 84, 84)


def test_a_time_limit_is_a_truncation() -> None:
    env = make("CounterTruncating-v0")
    env.reset()
    results = [env.step(np.array([0, 0])) for _ in range(4)]
    assert [r.truncated[0] for r in results] == [False, False, True, False]
    assert not any(r.terminated.any() for r in results)


def test_actions_that_start_at_one_are_counted_from_zero_here() -> None:
    env = make("CounterFromOne-v0")
    env.reset()
    assert env.step(np.array([0, 1])).rewards.tolist() == [1, 2]


def test_a_module_and_a_callable() -> None:
    spec = describe_environment(EnvironmentConfig(env="tests.helpers.catch:make"))
    assert spec == ((84, 84), 3)


def same_step_catch(num_envs):
    env = Catch(num_envs)
    env.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    return env


class ReusingCatch(Catch):
    """Writes every observation into the same array, as environments may."""

    def _frames(self):
        if not hasattr(self, "buffer"):
            self.buffer = super()._frames()
        self.buffer[:] = super()._frames()
        return self.buffer


def test_earlier_frames_are_not_written_over() -> None:
    env = make(f"{__name__}:ReusingCatch")
    first = env.reset()
    copy = first.copy()
    env.step(np.array([0, 0]))
    assert np.array_equal(first, copy)


class LosingCatch(Catch):
    """Takes a life a step, told in the same array each time."""

    def reset(self, **options):
        self.lives = np.full(self.num_envs, 9)
        return super().reset(**options)[0], {"lives": self.lives}

    def step(self, actions):
        self.lives -= 1
        return *super().step(actions)[:4], {"lives": self.lives}


def test_a_lost_life_is_seen_though_the_lives_are_told_in_one_array() -> None:
    env = make(f"{__name__}:LosingCatch")
    env.reset()
    assert all(env.step(np.array([0, 0])).life_lost.all() for _ in range(3))


def not_a_vector_env(num_envs):
    return Counter()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("CounterFourSides-v0", "uint8 or bool of shape"),
        ("CounterFloat-v0", "uint8 or bool of shape"),
        ("CounterBox-v0", "discrete"),
        ("CartPole-v1", "uint8 or bool of shape"),
        ("NoSuchEnvironment-v0", "cannot be made"),
        ("no_such_module:make", "no_such_module"),
        ("tests.helpers.catch:no_such_callable", "no_such_callable"),
        (f"{__name__}:not_a_vector_env", "not a gymnasium VectorEnv"),
        (f"{__name__}:same_step_catch", "NEXT_STEP"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_flag(name, reason) -> None:
    with pytest.raises(EnvironmentSetupError, match=reason) as caught:
        make(name)
    assert "--environment.env" in str(caught.value)
    assert "\n" not in str(caught.value)


class Breaking(Catch):
    def reset(self, **options):
        raise KeyError("seed")

    def step(self, actions):
        raise RuntimeError("no\ngame")


class Unfinished(Catch):
    single_action_space = property(lambda self: self.spaces[0], lambda self, value: None)


@pytest.mark.parametrize(
    ("method", "reason"), [("reset", "KeyError: 'seed'"), ("step", "RuntimeError: no game")]
)
def test_what_it_raises_while_it_is_played_is_one_line_with_file_and_line(method, reason) -> None:
    env = make(f"{__name__}:Breaking")
    line = getattr(Breaking, method).__code__.co_firstlineno + 1
    with pytest.raises(EnvironmentFailed) as caught:
        env.reset() if method == "reset" else env.step(np.zeros(2, np.int64))
    place = f"({__file__}, line {line})"
    assert str(caught.value) == f"--environment.env '{__name__}:Breaking' fails in {method}: {reason} {place}"


def test_what_it_raises_when_it_is_looked_at_is_one_line_with_file_and_line() -> None:
    with pytest.raises(
        EnvironmentSetupError, match=rf"cannot be made: AttributeError: .* \({__file__}, line"
    ):
        make(f"{__name__}:Unfinished")


def test_seeds_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="one seed an environment"):
        make_environment(EnvironmentConfig(), 2, np.zeros(3, np.int64))
