"""The environment that other tests learn on is a proper one."""

import numpy as np
from gymnasium.vector import AutoresetMode

from actors.config import EnvironmentConfig
from actors.environments import make_environment
from tests.helpers.catch import BLOCK_BRIGHTNESS, CELL, EPISODE_STEPS, PADDLE_BRIGHTNESS, Catch


def catch(num_envs=4, seeds=None, name="make"):
    seeds = np.arange(10, 10 + num_envs) if seeds is None else np.array(seeds)
    return make_environment(EnvironmentConfig(env=f"tests.helpers.catch:{name}"), num_envs, seeds)


def perfect_actions(frames):
    """Towards the block: 0 left, 1 stay, 2 right, read from the pixels."""
    block = (frames == BLOCK_BRIGHTNESS).any(axis=1).argmax(axis=1) // CELL
    bottom = frames[:, -1, :]
    paddle = (bottom == PADDLE_BRIGHTNESS).argmax(axis=1) // CELL
    return 1 + np.sign(block - paddle)


def returns_of(choose, episodes=200):
    env = catch(8)
    frames, returns = env.reset(), []
    while len(returns) < episodes:
        result = env.step(choose(frames))
        frames = result.frames
        returns += result.rewards[result.terminated].tolist()
    return returns


def test_who_follows_the_block_always_catches_it() -> None:
    assert set(returns_of(perfect_actions)) == {1.0}


def test_who_moves_at_random_mostly_misses() -> None:
    rng = np.random.default_rng(0)
    assert np.mean(returns_of(lambda frames: rng.integers(0, 3, len(frames)))) < -0.4


def test_an_episode_has_six_steps_and_then_a_reset_step() -> None:
    env = catch(2)
    first = env.reset()
    results = [env.step(np.array([1, 1])) for _ in range(14)]
    assert [bool(r.terminated[0]) for r in results] == ([False] * (EPISODE_STEPS - 1) + [True, False]) * 2
    assert [bool(r.valid[0]) for r in results] == ([True] * EPISODE_STEPS + [False]) * 2
    assert (results[EPISODE_STEPS].frames[:, 0] > 0).any()  # a block at the top again
    assert first.shape == (2, 84, 84)
    assert first.dtype == np.uint8
    assert set(np.unique(first)) == {0, PADDLE_BRIGHTNESS, BLOCK_BRIGHTNESS}


def test_seeds_decide_where_blocks_fall() -> None:
    frames = np.array([catch(3, seeds=[1, 1, 2]).reset()])[0]
    env = catch(3, seeds=[1, 1, 2])
    env.reset()
    later = [env.step(np.ones(3, np.int64)).frames for _ in range(40)]
    assert np.array_equal(frames[0], frames[1])
    assert all(np.array_equal(f[0], f[1]) for f in later)
    assert any(not np.array_equal(f[0], f[2]) for f in later)


def test_a_time_limit_truncates() -> None:
    env = catch(2, name="make_truncated")
    env.reset()
    results = [env.step(np.array([1, 1])) for _ in range(5)]
    assert [bool(r.truncated.all()) for r in results] == [False, False, False, True, False]
    assert not any(r.terminated.any() for r in results)
    assert not results[4].valid.any()


def test_it_keeps_gymnasiums_interface() -> None:
    env = Catch(3)
    observations, info = env.reset(seed=5)
    assert env.observation_space.contains(observations)
    assert info == {}
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    observations, rewards, terminated, truncated, _ = env.step(env.action_space.sample())
    assert env.observation_space.contains(observations)
    assert rewards.shape == terminated.shape == truncated.shape == (3,)
