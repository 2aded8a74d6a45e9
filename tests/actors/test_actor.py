"""The actor's loop: what it does with environments, policy, builders, weights and a writer that says no."""

import itertools
import threading

import numpy as np
import pytest

from actors.config import ExplorationConfig
from actors.policy import Policy
from tests.helpers.actors.acting import RecordingWriter, Watch, WeightsQueue, make_actor, weights
from tests.helpers.deadline import patient, until


def test_epsilon_follows_the_fleets_env_steps_after_the_warm_up() -> None:
    source = WeightsQueue(weights(0, env_steps=0))
    actor = make_actor(source=source, weights_poll_steps=1)
    actor.step()
    assert actor.metrics()["actors/epsilon"] == 1.0
    source.queue.append(weights(1, env_steps=100 + 500))
    actor.step()
    actor.step()
    assert actor.metrics()["actors/epsilon"] == pytest.approx(0.505)
    assert actor.metrics()["actors/weights_version"] == 1


def test_an_episode_is_told_with_the_epsilon_of_its_last_step() -> None:
    source = WeightsQueue(weights(0, env_steps=0))
    actor = make_actor(source=source, weights_poll_steps=1)
    for _ in range(5):
        actor.step()
    assert actor.take_episodes() == []
    source.queue.append(weights(1, env_steps=100 + 500))
    actor.step()
    episodes = actor.take_episodes()
    assert [(e.env_slot, e.length) for e in episodes] == [(0, 6), (1, 6), (2, 6)]
    assert [episode.epsilon for episode in episodes] == [pytest.approx(0.505)] * 3


def test_on_a_ladder_each_env_slot_tells_its_own_epsilon() -> None:
    actor = make_actor(exploration=ExplorationConfig(kind="ladder"), slot=0)
    for _ in range(6):
        actor.step()
    ladder = [0.4, 0.4**8, 0.4**4.5]
    assert [episode.epsilon for episode in actor.take_episodes()] == pytest.approx(ladder)
    metrics = actor.metrics()
    assert metrics["actors/epsilon"] == pytest.approx(sum(ladder) / 3)
    assert metrics["actors/epsilon_min"] == pytest.approx(0.4**8)
    assert metrics["actors/epsilon_max"] == pytest.approx(0.4)


def test_nothing_is_done_before_there_are_weights() -> None:
    source, writer = WeightsQueue(), RecordingWriter()
    actor = make_actor(source=source, writer=writer)
    answers = itertools.chain([False] * 5, itertools.repeat(True))
    actor.run(lambda: next(answers))
    assert source.waits > 0
    assert writer.segments == []
    assert actor.metrics()["actors/weights_version"] == -1


def test_told_to_stop_while_writing_it_keeps_the_segment_and_drains_without_waiting() -> None:
    writer = RecordingWriter()
    actor = make_actor(writer=writer)
    watch = Watch(actor)
    stop = threading.Event()

    def should_stop():
        if len(watch.results) == 20:
            writer.closed = True
        return stop.is_set()

    actor.run(should_stop)
    steps = sum(int(r.valid.sum()) for r in watch.results)
    assert sum(s.num_items for s in writer.segments) == steps
    assert len({s.identity for s in writer.segments}) == len(writer.segments)
    assert writer.waits[-1] is False
    assert writer.waits[0] is True


def test_acting_goes_on_after_a_drain() -> None:
    writer = RecordingWriter()
    actor = make_actor(writer=writer)
    watch = Watch(actor)
    for _ in range(3):
        for _ in range(10):
            actor.step()
        actor.drain()
    steps = sum(int(r.valid.sum()) for r in watch.results)
    assert sum(s.num_items for s in writer.segments) == steps
    assert len(watch.results) == 30


def test_at_any_time_all_but_the_open_steps_are_written() -> None:
    writer = RecordingWriter()
    actor = make_actor(writer=writer, num_envs=4)
    watch = Watch(actor)
    for _ in range(50):
        actor.step()
        taken = sum(int(r.valid.sum()) for r in watch.results)
        written = sum(s.num_items for s in writer.segments)
        assert taken - written == sum(builder.open_steps for builder in actor._builders)
        assert taken - written <= 4 * (8 + 3)


def test_the_same_seed_plays_the_same_and_another_slot_does_not() -> None:
    def play(slot):
        actor = make_actor(slot=slot, num_envs=2)
        watch = Watch(actor)
        for _ in range(30):
            actor.step()
        return np.array([a.action for a in watch.actions]), np.array([r.frames for r in watch.results])

    for one, other in zip(play(0), play(0), strict=True):
        assert np.array_equal(one, other)
    for one, other in zip(play(0), play(1), strict=True):
        assert not np.array_equal(one, other)


class LockstepSource(WeightsQueue):
    """A learner in lockstep: knows of what was written a few questions later."""

    def __init__(self, writer, start) -> None:
        super().__init__(weights(0, env_steps=start))
        self.writer, self.start, self.version = writer, start, 0

    def take(self, wait=False):
        given = super().take(wait)
        if given is None and self.waits % 4 == 0:
            self.version += 1
            written = sum(s.num_items for s in self.writer.segments)
            given = weights(self.version, env_steps=self.start + written)
        self.last = given or getattr(self, "last", None)
        return given


def test_in_lockstep_each_segment_is_followed_by_weights_that_know_of_it() -> None:
    writer = RecordingWriter()
    source = LockstepSource(writer, start=1000)
    actor = make_actor(writer=writer, source=source, num_envs=1, lockstep=True, start_env_steps=1000)
    act = actor._policy.act

    def checked_act(*args, **options):
        assert source.last.env_steps == 1000 + sum(s.num_items for s in writer.segments)
        return act(*args, **options)

    actor._policy.act = checked_act
    for _ in range(50):
        actor.step()
    assert len(writer.segments) > 5
    assert source.version >= len(writer.segments) - 1


def test_waiting_in_lockstep_ends_when_told_to_stop_without_another_step() -> None:
    actor = make_actor(source=WeightsQueue(weights()), num_envs=1, lockstep=True)
    watch = Watch(actor)
    stop = threading.Event()
    thread = threading.Thread(target=actor.run, args=(stop.is_set,), daemon=True)
    thread.start()
    until(lambda: actor._needed_env_steps > 0, "a written segment")
    steps = len(watch.results)
    until(lambda: actor._weights_source.waits > 10, "a wait")
    stop.set()
    thread.join(patient(20))
    assert not thread.is_alive()
    assert len(watch.results) == steps


def test_episodes_and_metrics_are_told_to_another_thread() -> None:
    actor = make_actor(num_envs=4)
    stop = threading.Event()
    thread = threading.Thread(target=actor.run, args=(stop.is_set,), daemon=True)
    thread.start()
    episodes = []
    until(lambda: episodes.extend(actor.take_episodes()) or len(episodes) > 30, "30 episodes")
    stop.set()
    thread.join(patient(20))
    episodes += actor.take_episodes()
    assert {e.return_ for e in episodes} == {-1.0, 1.0}
    assert {e.length for e in episodes} == {6}
    assert {e.env_slot for e in episodes} == {0, 1, 2, 3}
    metrics = actor.metrics()
    assert metrics["actors/env_steps"] >= 6 * len(episodes)
    assert metrics["speed/actor_steps_per_s"] > 0
    assert 0 <= metrics["actors/waiting_share"] < 1
    assert actor.take_episodes() == []


def test_during_the_warm_up_the_network_is_not_asked() -> None:
    """Everybody explores then; it is not needed, and acting is most of an actor's cost."""
    asked = []
    actor = make_actor()
    network_values = Policy._q_values

    def counted(observations, noise):
        asked.append(len(observations))
        return network_values(actor._policy, observations, noise)

    actor._policy._q_values = counted
    for _ in range(10):
        actor.step()
    assert asked == []
