"""Environments against real ALE: every default of AtariVectorEnv that the design calls a trap, and ours."""

import numpy as np
import pytest
from ale_py import ALEInterface, roms
from gymnasium.vector import AutoresetMode

from actors.config import EnvironmentConfig
from actors.environments import describe_environment, environment_seeds
from tests.helpers.actors.atari import atari, library, play, random_actions


def test_a_plain_emulator_with_the_same_settings_plays_the_same_games() -> None:
    """Sticky 0.25, skip 4, max-pool, grey, minimal actions, no no-ops, no fire, raw reward, the seed."""
    env = atari("breakout", seeds=[123456], frame_height=210, frame_width=160)
    ale = plain_emulator("breakout", seed=123456, sticky=0.25)
    actions = random_actions(700, 1)
    first, results = play(env, actions)
    ale.reset_game()
    assert np.array_equal(first[0], ale.getScreenGrayscale())
    ends = 0
    for row, result in zip(actions, results, strict=True):
        reward, screen = plain_step(ale, row[0], reset=not result.valid[0])
        assert result.rewards[0] == reward
        assert result.terminated[0] == ale.game_over()
        ends += int(result.terminated[0])
        if not result.terminated[0]:  # that frame counts for nothing; ale-py leaves the newest out of it
            assert np.array_equal(result.frames[0], screen)
    assert ends >= 2


def area_means(length, count):
    """(count, length) weights: each of `count` equal stretches of a line is the mean of what it covers."""
    edges = np.linspace(0, length, count + 1)
    starts, ends = np.arange(length), np.arange(1, length + 1)
    covered = np.minimum(edges[1:, None], ends) - np.maximum(edges[:-1, None], starts)
    return covered.clip(0) / (length / count)


def test_a_frame_is_the_screen_shrunk_by_area_means() -> None:
    """As Dopamine's `cv2.INTER_AREA` does it."""
    actions = random_actions(200, 1)
    large, small = (
        atari("ms_pacman", seeds=[7], frame_height=h, frame_width=w) for h, w in ((210, 160), (84, 84))
    )
    (_, screens), (_, frames) = play(large, actions), play(small, actions)
    rows, columns = area_means(210, 84), area_means(160, 84)
    for screen, frame in zip(screens, frames, strict=True):
        expected = rows @ screen.frames[0].astype(float) @ columns.T
        assert np.abs(frame.frames[0] - expected).max() <= 0.51, "rounded to the next whole number"


def plain_emulator(game, *, seed, sticky) -> ALEInterface:
    ale = ALEInterface()
    ale.setInt("random_seed", seed)
    ale.setFloat("repeat_action_probability", sticky)
    ale.loadROM(roms.get_rom_path(game))
    return ale


def plain_step(ale, action, *, reset):
    if reset:
        ale.reset_game()
        return 0, ale.getScreenGrayscale()
    reward, screens = 0, []
    for _ in range(4):
        reward += ale.act(ale.getMinimalActionSet()[action])
        screens.append(ale.getScreenGrayscale())
        if ale.game_over():
            break
    return reward, np.maximum(screens[-1], screens[max(0, len(screens) - 2)])


def test_the_single_frame_is_the_newest_of_the_librarys_stack_of_four() -> None:
    env = atari(num_envs=2, seeds=[5, 77])
    settings = {"noop_max": 0, "reward_clipping": False, "use_fire_reset": False}
    stacked = library(num_envs=2, repeat_action_probability=0.25, **settings)
    observations, _ = stacked.reset(seed=np.array([5, 77]))
    actions = random_actions(300, 2)
    first, results = play(env, actions)
    assert np.array_equal(first, observations[:, -1])
    assert not observations[:, :-1].any()  # frames before an episode's first are zeros there too
    for row, result in zip(actions, results, strict=True):
        observations = stacked.step(row)[0]
        assert np.array_equal(result.frames, observations[:, -1])
    assert not all(r.valid.all() for r in results)


def test_sticky_actions_are_on_where_the_library_has_none() -> None:
    actions = random_actions(60, 1).repeat(2, axis=1)
    _, sticky = play(atari(num_envs=2, seeds=[1, 2]), actions)
    _, plain = play(atari(num_envs=2, seeds=[1, 2], repeat_action_probability=0.0), actions)
    default = library(num_envs=2, noop_max=0, use_fire_reset=False)
    default.reset(seed=np.array([1, 2]))
    default_frames = np.array([default.step(row)[0][:, -1] for row in actions])
    assert np.array_equal(default_frames[:, 0], default_frames[:, 1])
    assert all(np.array_equal(r.frames[0], r.frames[1]) for r in plain)
    assert any(not np.array_equal(r.frames[0], r.frames[1]) for r in sticky)


def test_rewards_are_raw_where_the_library_clips_them() -> None:
    actions = random_actions(150, 2, num_actions=9)
    _, results = play(atari("ms_pacman", 2, seeds=[1, 2]), actions)
    clipped = library("ms_pacman", 2, repeat_action_probability=0.25, noop_max=0)
    clipped.reset(seed=np.array([1, 2]))
    raw = np.array([r.rewards for r in results])
    assert raw.max() >= 10
    assert raw.dtype == np.float32
    assert np.array_equal(np.clip(raw, -1, 1), [clipped.step(row)[1] for row in actions])


def test_seeds_decide_the_stream() -> None:
    actions = random_actions(60, 1).repeat(3, axis=1)
    _, results = play(atari(num_envs=3, seeds=[7, 7, 8]), actions)
    frames = np.array([r.frames for r in results])
    assert np.array_equal(frames[:, 0], frames[:, 1])
    assert not np.array_equal(frames[:, 0], frames[:, 2])
    _, alone = play(atari(num_envs=1, seeds=[8]), actions[:, :1])
    assert np.array_equal(frames[:, 2], [r.frames[0] for r in alone])


def test_no_two_environments_of_a_fleet_share_a_seed() -> None:
    seeds = np.concatenate(
        [
            environment_seeds(run, slot, incarnation, 8)
            for run in (0, 1)
            for slot in range(20)
            for incarnation in range(3)
        ]
    )
    assert len(set(seeds.tolist())) == len(seeds)
    assert seeds.min() >= 0
    assert seeds.max() < 2**31
    assert np.array_equal(environment_seeds(3, 1, 2, 8), environment_seeds(3, 1, 2, 8))
    assert np.array_equal(environment_seeds(3, 1, 2, 8)[:4], environment_seeds(3, 1, 2, 4))


def test_each_action_reaches_its_own_environment_and_answers_come_in_order() -> None:
    actions = random_actions(60, 3)
    seeds = [11, 12, 13]
    env = atari(num_envs=3, seeds=seeds)
    _, together = play(env, actions)
    for i, seed in enumerate(seeds):
        _, alone = play(atari(seeds=[seed]), actions[:, i : i + 1])
        assert all(np.array_equal(t.frames[i], a.frames[0]) for t, a in zip(together, alone, strict=True))
        assert [t.rewards[i] for t in together] == [a.rewards[0] for a in alone]


def test_frames_of_earlier_steps_stay_as_they_were() -> None:
    env = atari(num_envs=2)
    first = env.reset()
    copy = first.copy()
    for row in random_actions(10, 2):
        env.step(row)
    assert np.array_equal(first, copy)


@pytest.mark.parametrize(
    ("game", "full", "expected"), [("pong", False, 6), ("breakout", False, 4), ("breakout", True, 18)]
)
def test_the_action_set_is_minimal_unless_asked_otherwise(game, full, expected) -> None:
    spec = describe_environment(EnvironmentConfig(game=game, full_action_space=full, frame_height=42))
    assert spec.num_actions == expected
    assert spec.frame_shape == (42, 84)


def test_our_environment_declares_what_it_does() -> None:
    env = atari()
    assert env._env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
