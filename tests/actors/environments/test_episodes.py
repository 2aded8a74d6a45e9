"""Where games begin and end, against real ALE: time limits, no-ops, resets and lost lives."""

import numpy as np
import pytest

from tests.helpers.actors.atari import atari, library, play, random_actions


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


def test_a_game_that_ends_right_after_its_time_limit_costs_the_next_game_no_step() -> None:
    env = atari(num_envs=2, seeds=[1, 2], max_frames_per_episode=80)
    step = env._env.step

    def ending(actions):
        frames, rewards, terminated, truncated, info = step(actions)
        return frames, rewards, terminated | env._truncated, truncated, info

    env._env.step = ending
    _, results = play(env, np.zeros((60, 2), np.int64))
    assert [t for t, r in enumerate(results) if r.truncated.any()] == [19, 40]
    assert [t for t, r in enumerate(results) if not r.valid.all()] == [20, 41]


def episode_lengths(results):
    """Lengths of the finished episodes of each environment."""
    lengths, current = [[] for _ in results[0].valid], np.zeros(len(results[0].valid), int)
    for result in results:
        current = np.where(result.valid, current + 1, 0)
        for env in np.flatnonzero(result.terminated | result.truncated):
            lengths[env].append(int(current[env]))
    return lengths


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
