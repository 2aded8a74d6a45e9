import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import ray

from deploy.bench import weights as bench
from deploy.fleet.processes import weight_store
from deploy.fleet.processes.weight_store import StoredWeights, WeightPublisher, create_weight_store
from deploy.fleet.processes.weights_cost import measure
from deploy.run.config import with_values
from deploy.run.presets import LAPTOP
from models.arrays import Weights
from tests.helpers.deadline import until


def weights(version: int) -> Weights:
    return Weights(version, np.full(100_000, version, np.float32), 10 * version, 50 * version)


@pytest.fixture
def store(shared_ray, tmp_path):
    handle = create_weight_store("DEFAULT", tmp_path / "log.txt")
    yield handle
    ray.kill(handle)


def polled(source: StoredWeights, what: str = "weights") -> Weights:
    return until(lambda: source.ask() or source.take(), what)


def test_actors_get_the_newest_and_each_version_once(store):
    source, late = StoredWeights(store), StoredWeights(store)
    assert source.take() is None
    publisher = WeightPublisher(store)
    publisher.publish(weights(0))
    first = polled(source)
    assert (first.version, first.env_steps, first.updates, first.parameters[7]) == (0, 0, 0, 0.0)
    source.ask()
    for _ in range(100):
        assert source.take() is None
    publisher.publish(weights(1))
    publisher.publish(weights(2))
    until(lambda: publisher.newest_version() == 2, "the publications")
    # Asked with nothing newer there, and again once there was: never the next one, always the newest.
    newest = polled(source)
    assert (newest.version, newest.env_steps, newest.updates) == (2, 20, 100)
    np.testing.assert_array_equal(newest.parameters, weights(2).parameters)
    assert polled(late).version == 2


def test_an_answer_is_what_was_the_newest_when_it_was_asked_for(store):
    """And not the first that came after the question before."""
    source, publisher = StoredWeights(store), WeightPublisher(store)
    publisher.publish(weights(0))
    assert polled(source).version == 0
    for version in range(1, 9):
        publisher.publish(weights(version))
        until(lambda v=version: publisher.newest_version() == v, "the publication")
        if version % 4 == 0:
            source.ask()
            assert until(source.take, "the newest").version == version


def test_renewed_weights_are_the_newest_now_whatever_was_asked_before(store, monkeypatch):
    monkeypatch.setattr(weight_store, "RENEWAL_SECONDS", 60.0)
    source, publisher = StoredWeights(store), WeightPublisher(store)
    publisher.publish(weights(0))
    assert polled(source).version == 0
    assert source.renew() is None
    for version in (1, 2):
        source.ask()
        publisher.publish(weights(version))
        until(lambda v=version: publisher.newest_version() == v, "the publication")
    assert source.renew().version == 2
    assert source.renew() is None


def test_renewal_does_not_wait_for_a_store_that_does_not_answer(monkeypatch):
    """And leaves its request with it, so that a slow answer is found later."""
    asked, seconds = [], []

    class Store:
        newest_above = SimpleNamespace(remote=lambda version: asked.append(version) or "a request")

    monkeypatch.setattr(weight_store, "_is_here", lambda _, waited: bool(seconds.append(waited)))
    source = StoredWeights(Store())
    for _ in range(3):
        assert source.renew() is None
    assert asked == [-1]
    assert seconds == [weight_store.RENEWAL_SECONDS] * 3


def test_waiting_ends_when_something_is_published(store):
    source = StoredWeights(store)
    assert source.take(wait=True) is None
    WeightPublisher(store).publish(weights(0))
    assert until(lambda: source.take(wait=True), "weights").version == 0


def test_an_older_version_is_refused_and_logged(store, tmp_path):
    publisher = WeightPublisher(store)
    assert publisher.newest_version() == -1
    publisher.publish(weights(5))
    publisher.publish(weights(5))
    publisher.publish(weights(4))
    assert publisher.newest_version() == 5
    late = StoredWeights(store)
    assert polled(late).parameters[0] == 5.0
    refused = [line for line in (tmp_path / "log.txt").read_text().splitlines() if "refused" in line]
    assert len(refused) == 2


@ray.remote(num_cpus=0)
class Learner:
    """Publishes from a process of its own."""

    def publish(self, store) -> int:
        WeightPublisher(store).publish(weights(3))
        return os.getpid()


def test_weights_outlive_the_learner(store):
    source = StoredWeights(store)
    pid = ray.get(Learner.remote().publish.remote(store))
    until(lambda: WeightPublisher(store).newest_version() == 3, "publication")
    os.kill(pid, signal.SIGKILL)
    np.testing.assert_array_equal(polled(source).parameters, weights(3).parameters)


def test_the_benchmark_relates_a_question_and_a_publication_to_what_they_serve(shared_ray: str) -> None:
    config = with_values(
        LAPTOP,
        actors__envs_per_actor=8,
        actors__weights_poll_steps=5,
        learner__batch_size=32,
        learner__publish_period=25,
    )
    parts = {"env_steps_per_s": 4e3, "forward_states_per_s": 2e3, "cores": 2.0, "update_samples_per_s": 1.6e3}
    found = bench.relate(config, parts, 0.9, 4.5)
    assert found["vector_step_core_ms"] == pytest.approx(8 * (0.25 + 0.5))
    assert found["question_percent"] == pytest.approx(100 * 0.9 / (5 * 6))
    assert found["update_core_ms"] == pytest.approx(40.0)
    assert found["publication_percent"] == pytest.approx(100 * 4.5 / (25 * 40))
    assert np.isfinite(measure(np.zeros(1_000, np.float32), 0.01)).all()
