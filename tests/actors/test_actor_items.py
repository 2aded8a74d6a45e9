"""What becomes of an actor's steps: the items written are those of the brute force, with their priorities."""

import dataclasses
import itertools

import numpy as np
import pytest

from actors.config import EnvironmentConfig, ExplorationConfig
from replay.config import ReplayConfig
from tests.helpers.actors.acting import (
    CATCH,
    RETURNS,
    RecordingWriter,
    Watch,
    WeightsQueue,
    make_actor,
    weights,
)
from tests.helpers.replay.brute_force import RecordedStep, brute_force_items
from tests.helpers.replay.streams import assert_same_items, items_of

TRUNCATED = EnvironmentConfig(env="tests.helpers.catch:make_truncated")
BREAKOUT = EnvironmentConfig(game="breakout", frame_height=44, frame_width=44, max_frames_per_episode=120)


@pytest.mark.parametrize("actor_priorities", [False, True])
@pytest.mark.parametrize("environment", [CATCH, TRUNCATED, BREAKOUT], ids=["catch", "truncated", "breakout"])
def test_every_step_becomes_one_item_just_as_the_policy_saw_it(environment, actor_priorities) -> None:
    """And the reset steps become none: all items equal those made directly from the recorded stream."""
    writer = RecordingWriter()
    shape = (4, 84, 84) if environment.env else (4, 44, 44)
    source = WeightsQueue(weights(num_actions=3 if environment.env else 4, shape=shape))
    actor = make_actor(environment, writer, source, actor_priorities=actor_priorities)
    watch = Watch(actor)
    for _ in range(75):
        actor.step()
    actor.drain()
    for env in range(3):
        segments = [s for s in writer.segments if s.env_slot == env]
        items = [item for s in segments for item in items_of(s, stack=4, n_step=3, **RETURNS)]
        expected = brute_force_items(watch.stream(env), stack=4, n_step=3, **RETURNS)
        assert_same_items(items, expected)
        assert np.array_equal([i.observation for i in items], watch.observations_acted_on(env))
        assert any(not r.valid[env] for r in watch.results)


@pytest.mark.parametrize("actor_priorities", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_steps_with_a_reward_that_is_no_number_are_left_out_and_counted(bad, actor_priorities) -> None:
    """Those before and after them are what they would be with a new episode in between."""
    writer = RecordingWriter()
    actor = make_actor(CATCH, writer, actor_priorities=actor_priorities)
    step, calls = actor._environment.step, itertools.count()

    def spoiled(actions):
        result, call = step(actions), next(calls)
        if call in (3, 20, 21):
            result.rewards[1] = bad
        return result

    actor._environment.step = spoiled
    watch = Watch(actor)
    for _ in range(60):
        actor.step()
    actor.drain()
    refused = sum(int(r.valid[1]) for r in watch.results if not np.isfinite(r.rewards[1]))
    assert actor.metrics()["actors/refused_rewards"] == refused >= 2
    for env in range(3):
        stream, parts, frame = [], [], watch.first[env]
        for result, actions in zip(watch.results, watch.actions, strict=True):
            reward = float(result.rewards[env])
            if result.valid[env] and np.isfinite(reward):
                ends = bool(result.terminated[env]), bool(result.truncated[env])
                action = int(actions.action[env])
                stream.append(RecordedStep(frame, action, reward, *ends, False, result.frames[env]))
            elif result.valid[env]:
                parts, stream = [*parts, stream], []
            frame = result.frames[env]
        parts.append(stream)
        expected = [item for part in parts for item in brute_force_items(part, stack=4, n_step=3, **RETURNS)]
        segments = [s for s in writer.segments if s.env_slot == env]
        items = [item for s in segments for item in items_of(s, stack=4, n_step=3, **RETURNS)]
        assert_same_items(items, expected)
        assert len(parts) == (1 if env != 1 else 1 + refused)


def test_a_game_with_a_refused_reward_is_not_told_as_an_episode() -> None:
    """Neither is the remainder after it; a game of Catch takes six steps and a reset."""
    actor = make_actor(CATCH)
    step, calls = actor._environment.step, itertools.count()

    def spoiled(actions):
        result, call = step(actions), next(calls)
        if call in (3, 7 + 5):  # within the first game, and at the end of the second
            result.rewards[1] = float("nan")
        return result

    actor._environment.step = spoiled
    for _ in range(3 * 7):
        actor.step()
    episodes = [(episode.env_slot, episode.length) for episode in actor.take_episodes()]
    assert episodes == [(0, 6), (2, 6)] * 2 + [(0, 6), (1, 6), (2, 6)]


@pytest.mark.parametrize("actor_priorities", [False, True])
def test_sequence_numbers_are_written_in_order_under_the_actors_identity(actor_priorities) -> None:
    writer = RecordingWriter()
    staggered = EnvironmentConfig(env="tests.helpers.catch:make_staggered")
    replay = ReplayConfig(segment_steps=2, n_step=3)
    actor = make_actor(staggered, writer, actor_priorities=actor_priorities, replay=replay)
    for _ in range(60):
        actor.step()
    actor.drain()
    assert [s.identity for s in writer.segments] == [(2, 5, seq) for seq in range(len(writer.segments))]


def test_initial_priorities_are_the_td_errors_of_the_values_seen() -> None:
    """Including the bootstrap of a window cut by a time limit, which is seen on the reset step."""
    writer = RecordingWriter()
    actor = make_actor(TRUNCATED, writer, actor_priorities=True)
    watch = Watch(actor)
    for _ in range(60):
        actor.step()
    for env in range(3):
        items = [
            (s.identity, s.first_step + i, s.priorities[i])
            for s in writer.segments
            if s.env_slot == env
            for i in range(s.num_items)
        ]
        stream = brute_force_items(watch.stream(env), stack=4, n_step=3, **RETURNS)
        rows = list(zip(watch.actions, watch.results, strict=True))
        acted = [t for t, (_, result) in enumerate(rows) if result.valid[env]]
        assert len(items) > 30
        for (_, step, priority), item, t in zip(items, stream, acted, strict=False):
            assert step == item.step
            bootstrap = watch.actions[t + item.num_window_steps].q_max[env]
            error = item.reward + item.discount * bootstrap - watch.actions[t].q_taken[env]
            assert priority == pytest.approx(abs(error), rel=1e-5, abs=1e-6)


def test_a_lost_life_that_is_an_end_for_the_replay_begins_the_stack_anew() -> None:
    """As in the reference's Atari 100k, in acting and in what is learned from."""
    returns = RETURNS | {"life_loss_terminates": True}
    writer = RecordingWriter()
    actor = make_actor(
        EnvironmentConfig(game="breakout"),
        writer,
        WeightsQueue(weights(num_actions=4)),
        num_envs=2,
        replay=ReplayConfig(segment_steps=8, n_step=3, gamma=0.9, min_size=100, life_loss_terminates=True),
        exploration=ExplorationConfig(epsilon_end=1.0),
    )
    watch = Watch(actor)
    for _ in range(400):
        actor.step()
    actor.drain()
    for env in range(2):
        steps = watch.stream(env)
        lost = [index for index, step in enumerate(steps) if step.life_lost and not step.terminated]
        assert len(lost) > 3
        acted_on = watch.observations_acted_on(env)
        for index in lost:
            assert not acted_on[index + 1][:-1].any()
            assert np.array_equal(acted_on[index + 1][-1], steps[index].next_frame)
        lives = [dataclasses.replace(step, terminated=step.terminated or step.life_lost) for step in steps]
        segments = sorted((s for s in writer.segments if s.env_slot == env), key=lambda s: s.identity)
        items = [i for s in segments for i in items_of(s, stack=4, n_step=3, **returns)]
        assert_same_items(items, brute_force_items(lives, stack=4, n_step=3, **RETURNS))
