"""Environments against real ALE: every default of AtariVectorEnv that the design calls a trap, and ours."""

import numpy as np
import pytest
from ale_py import ALEInterface, roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from actors.config import EnvironmentConfig
from actors.environments import (
    AtariEnvironment,
    describe_environment,
    environment_seeds,
    make_environment,
)


def atari(game="breakout", num_envs=1, seeds=None, **settings) -> AtariEnvironment:
    seeds = np.arange(100, 100 + num_envs) if seeds is None else np.array(seeds)
    return make_environment(EnvironmentConfig(game=game, **settings), num_envs, seeds)


def library(game="breakout", num_envs=1, **settings) -> AtariVectorEnv:
    """AtariVectorEnv as its defaults make it, but for one thread."""
    return AtariVectorEnv(game, num_envs, num_threads=1, **settings)


def play(env, actions):
    """All StepResults after a reset, for (T, E) actions."""
    first = env.reset()
    return first, [env.step(row) for row in actions]


def random_actions(steps, num_envs, num_actions=4, seed=0):
    return np.random.default_rng(seed).integers(0, num_actions, (steps, num_envs))


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


def test_after_a_time_limit_a_new_game_goes_on_as_any_other() -> None:
    """A time limit leaves the other environments alone, and the next game has no step too few or too many."""
    actions = np.tile([[1, 0], [0, 1], [0, 0], [3, 2]], (120, 1))
    _, limited = play(atari(num_envs=2, seeds=[1, 2], max_frames_per_episode=640), actions)
    lengths = episode_lengths(limited)
    assert lengths[0] == [150, 160, 160]  # lost, then twice the limit
    for env, seed in enumerate((1, 2)):
        alone = atari(seeds=[seed], max_frames_per_episode=640)
        _, results = play(alone, actions[:, env : env + 1])
        assert np.array_equal([r.frames[env] for r in limited], [r.frames[0] for r in results])


def episode_lengths(results):
    """Lengths of the finished episodes of each environment."""
    lengths, current = [[] for _ in results[0].valid], np.zeros(len(results[0].valid), int)
    for result in results:
        current = np.where(result.valid, current + 1, 0)
        for env in np.flatnonzero(result.terminated | result.truncated):
            lengths[env].append(int(current[env]))
    return lengths


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


def test_no_ops_are_env_steps_that_are_no_transitions() -> None:
    """The library's are single frames. Without sticky actions only they make one game unlike another."""
    settings = {"repeat_action_probability": 0.0, "noop_max": 29}
    first, results = play(atari("pong", 8, **settings), np.full((60, 8), 2))
    assert all(np.array_equal(frame, first[0]) for frame in first)
    played = [int(np.argmax([r.valid[env] for r in results])) for env in range(8)]
    assert len(set(played)) > 4
    assert max(played) <= 29
    _, (*noops, begun) = play(atari("pong", 1, repeat_action_probability=0.0), np.zeros((30, 1), np.int64))
    for env, count in enumerate(played):
        assert [r.valid[env] for r in results] == [False] * count + [True] * (60 - count)
        assert not any(r.rewards[env] for r in results[:count])
        if count:  # whatever was asked for meanwhile
            expected = [*noops, begun][count - 1].frames[0]
            assert np.array_equal(results[count - 1].frames[env], expected)
    again = play(atari("pong", 8, **settings), np.full((60, 8), 2))[1]
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(results, again, strict=True))


def test_no_ops_come_at_the_start_of_every_episode_and_a_game_that_ends_meanwhile_begins_anew() -> None:
    env = atari("pong", 2, noop_max=20, max_frames_per_episode=80, seeds=[1, 2])
    _, results = play(env, np.zeros((400, 2), np.int64))
    pauses = []
    for slot in range(2):
        valid = np.array([r.valid[slot] for r in results])
        ends = np.flatnonzero([r.truncated[slot] for r in results])
        assert len(ends) > 5
        pauses += [int(np.argmax(valid[end + 1 :])) for end in ends[:-1]]
    assert min(pauses) >= 1, "the reset itself"
    assert max(pauses) <= 21
    assert len(set(pauses)) > 4
    env._noops[:], env._terminated[:] = 3, False
    env._over[:] = [True, False]  # slot 0 has ended during its no-ops: the next step begins another game
    env.step(np.zeros(2, np.int64))
    assert env._noops.tolist() == [3, 2]


def test_no_ops_are_off_where_the_library_has_thirty() -> None:
    ours = atari("ms_pacman", 4).reset()
    default, info = library("ms_pacman", 4).reset(seed=np.arange(100, 104))
    assert all(np.array_equal(frame, ours[0]) for frame in ours)
    assert len(set(info["episode_frame_number"].tolist())) > 1
    assert not np.array_equal(default[0], default[1])


def test_nobody_fires_on_reset_where_the_library_does() -> None:
    noops = np.zeros((300, 1), np.int64)
    _, ours = play(atari(), noops)
    env = library(noop_max=0)
    env.reset(seed=np.array([100]))
    lives = [env.step(row)[4]["lives"][0] for row in noops]
    assert not any(r.life_lost[0] for r in ours)  # no ball in play: no life can be lost
    assert min(lives) < 5


def test_the_step_after_an_end_is_a_reset_and_the_true_last_frame_is_kept() -> None:
    env = atari(num_envs=2, seeds=[1, 2], max_frames_per_episode=80)
    actions = random_actions(64, 2)
    first, results = play(env, actions)
    assert [t for t, r in enumerate(results) if not r.valid.all()] == [20, 41, 62]
    for last in (19, 40, 61):
        assert results[last].truncated.all()
        assert results[last].valid.all()
        assert not np.array_equal(results[last].frames[0], first[0])
        reset = results[last + 1]
        assert np.array_equal(reset.frames, first)
        assert not (reset.truncated | reset.terminated | reset.life_lost).any()
        assert not reset.rewards.any()
        assert results[last + 2].valid.all()
    _, unlimited = play(atari(num_envs=2, seeds=[1, 2]), actions[:20])
    assert np.array_equal(unlimited[19].frames, results[19].frames)


def test_the_first_actions_of_a_new_episode_count_from_the_reset() -> None:
    """The action given on the reset step is ignored: whatever it is, the next episode is the same."""
    outcomes = []
    for ignored in (0, 1):
        actions = random_actions(60, 1)
        actions[20] = ignored
        env = atari(seeds=[1], max_frames_per_episode=80, repeat_action_probability=0.0)
        outcomes.append([r.frames for r in play(env, actions)[1]])
    assert np.array_equal(outcomes[0], outcomes[1])


@pytest.mark.parametrize(("max_frames", "steps"), [(80, 20), (81, 21), (3, 1), (84, 21)])
def test_the_time_limit_counts_frames_and_truncates(max_frames, steps) -> None:
    _, results = play(atari(max_frames_per_episode=max_frames), np.zeros((steps, 1), np.int64))
    assert [bool(r.truncated[0]) for r in results] == [False] * (steps - 1) + [True]
    assert not any(r.terminated[0] for r in results)


def test_a_lost_life_is_told_and_the_game_goes_on() -> None:
    fire_and_wait = np.tile([[1], [0], [0], [0]], (300, 1))
    _, results = play(atari(seeds=[3]), fire_and_wait)
    lost = [t for t, r in enumerate(results) if r.life_lost[0]]
    ended = [t for t, r in enumerate(results) if r.terminated[0]]
    resets = [t for t, r in enumerate(results) if not r.valid[0]]
    assert len(ended) >= 1
    assert len([t for t in lost if t <= ended[0]]) == 5  # Breakout has five lives, the last one ends the game
    assert lost[4] == ended[0]
    assert resets[0] == ended[0] + 1


def test_the_librarys_two_life_settings_are_the_traps_we_avoid() -> None:
    """episodic_life resets the whole game at a lost life; life_loss_info mixes them into `terminated`."""
    fire_and_wait = np.tile([[1], [0], [0], [0]], (60, 1))
    settings = {"repeat_action_probability": 0.25, "noop_max": 0, "use_fire_reset": False}
    fire_and_wait = fire_and_wait[:120]
    _, ours = play(atari(seeds=[3]), fire_and_wait)
    told = library(life_loss_info=True, **settings)
    episodic = library(episodic_life=True, **settings)
    told.reset(seed=np.array([3]))
    episodic.reset(seed=np.array([3]))
    ended = np.array([told.step(row)[2][0] for row in fire_and_wait])
    assert ended.any()
    assert np.array_equal(ended, [r.life_lost[0] or r.terminated[0] for r in ours])
    assert not any(r.terminated[0] for r in ours)
    first_loss = int(np.argmax(ended))
    infos = [episodic.step(row)[4] for row in fire_and_wait[: first_loss + 2]]
    assert infos[first_loss]["lives"][0] == 4
    assert infos[first_loss + 1]["lives"][0] == 5
    assert infos[first_loss + 1]["episode_frame_number"][0] == 0


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
