"""How old the weights are that an actor acts with, and what it does to get newer ones."""

from dataclasses import replace

import numpy as np
import pytest

from actors.weights import WeightsAge
from models.arrays import Weights
from tests.helpers.actors.acting import RecordingWriter, Watch, WeightsQueue, make_actor, weights


def test_weights_are_looked_for_now_and_then_and_their_version_is_recorded() -> None:
    writer = RecordingWriter()
    source = WeightsQueue(weights(0), weights(7))
    actor = make_actor(writer=writer, source=source, weights_poll_steps=14)
    for _ in range(28):
        actor.step()
    assert source.asks == 2
    assert source.waits == 1  # only the first are waited for
    actor.drain()
    versions = [s.weights_version for s in writer.segments if s.env_slot == 0]
    assert versions == sorted(versions)
    assert set(versions) == {0, 7}


class BusyLearner:
    """Publishes at every vector step; an answer is what was the newest at the question, a step later."""

    def __init__(self) -> None:
        self.newest, self.given, self.answer = 0, -1, None

    def ask(self):
        if self.answer is None:
            self.answer = self.newest

    def take(self, wait=False):
        if wait:
            self.ask()
        answer, self.answer = self.answer, None
        if answer is None or answer <= self.given:
            return None
        self.given = answer
        return weights(answer)

    def renew(self):
        earlier = self.take()
        self.ask()
        return self.take() or earlier


@pytest.mark.parametrize("period", [1, 2, 5])
def test_weights_are_as_old_as_the_last_question(period: int) -> None:
    """One period, and the step during which the answer comes."""
    source = BusyLearner()
    actor = make_actor(source=source, num_envs=1, weights_poll_steps=period)
    ages = []
    for _ in range(30):
        actor.step()
        ages.append(source.newest - actor._policy.weights_version)
        source.newest += 1
    assert max(ages) == period
    assert ages[1:] == [1 + step % period for step in range(29)], "the first are waited for"


class WaitingWriter(RecordingWriter):
    """Each segment waits until the learner has published so many times."""

    def __init__(self, learner: BusyLearner, publications: int) -> None:
        super().__init__()
        self.learner, self.publications, self.waited_s = learner, publications, 0.0

    def write(self, segment, *, wait=True):
        self.learner.newest += self.publications
        self.waited_s += self.publications
        return super().write(segment, wait=wait)

    def metrics(self):
        return super().metrics() | {"writer/waited_s": self.waited_s}


def versions_after_writes(actor, source: BusyLearner, writer: RecordingWriter) -> list[tuple[int, int]]:
    """Of each vector step after a write, the version that acts and the newest."""
    found, act = [], actor._policy.act

    def noting_act(*args, **options):
        if len(writer.segments) > noted[-1]:
            noted.append(len(writer.segments))
            found.append((actor._policy.weights_version, source.newest))
        return act(*args, **options)

    noted = [0]
    actor._policy.act = noting_act
    for _ in range(40):
        actor.step()
        source.newest += 1
    return found


@pytest.mark.parametrize("period", [1, 5, 100])
def test_after_a_write_that_waited_the_newest_weights_act(period: int) -> None:
    """Not those of a request made before the wait."""
    source = BusyLearner()
    writer = WaitingWriter(source, publications=50)
    found = versions_after_writes(
        make_actor(writer=writer, source=source, weights_poll_steps=period), source, writer
    )
    assert len(found) > 5
    assert all(version == newest for version, newest in found)


def test_after_a_write_that_did_not_wait_nothing_is_asked_anew() -> None:
    source = BusyLearner()
    writer = WaitingWriter(source, publications=0)
    actor = make_actor(writer=writer, source=source, weights_poll_steps=100)
    found = versions_after_writes(actor, source, writer)
    assert {version for version, _ in found} == {0}


def test_a_store_that_does_not_answer_stops_nobody() -> None:
    source = BusyLearner()
    source.renew = lambda: None
    writer = WaitingWriter(source, publications=50)
    actor = make_actor(writer=writer, source=source, weights_poll_steps=1)
    watch = Watch(actor)
    for _ in range(20):
        actor.step()
    assert len(watch.results) == 20
    assert len(writer.segments) > 2


def test_the_age_is_that_at_the_steps_and_not_while_waiting() -> None:
    """Updates 0, 10 and 110 are published at 100, 110 and 210 s."""
    now = iter([102.0, 108.0, 112.0, 215.0])
    age = WeightsAge(clock=lambda: next(now))
    none = np.zeros(1, np.float32)
    age.acted()  # Before any weights: nothing to tell.
    age.arrived(Weights(0, none, 0, updates=0, published_at=100.0))
    age.acted()
    age.acted()
    assert age.metrics() == {}
    age.arrived(Weights(1, none, 0, updates=10, published_at=110.0))
    assert age.metrics() == {"actors/weights_age_updates": 5.0}
    age.acted()
    # A wait of 100 updates, after which the weights are new again.
    age.arrived(Weights(2, none, 0, updates=110, published_at=210.0))
    assert age.metrics() == {"actors/weights_age_updates": 4.0}
    age.acted()
    age.arrived(Weights(3, none, 0, updates=50, published_at=220.0))  # A learner went back.
    assert age.metrics() == {"actors/weights_age_updates": 4.0}


def test_an_actor_reports_the_age_once_it_has_acted() -> None:
    source = WeightsQueue(*(replace(weights(v), updates=25 * v, published_at=v + 1.0) for v in range(2)))
    actor = make_actor(source=source, weights_poll_steps=1)
    actor._weights_age._clock = lambda: 1.5
    for _ in range(3):
        actor.step()
    assert actor.metrics()["actors/weights_age_updates"] == 12.5
