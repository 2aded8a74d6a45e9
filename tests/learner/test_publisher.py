"""Weights that a GPU still copies are published by a thread, the newest first of all."""

import threading

import numpy as np
import pytest
import torch

from learner import publisher
from learner.publisher import Copy, Publisher
from learner.update.gpu.weights_copy import WeightsCopier
from models.arrays import flatten
from tests.helpers.deadline import patient
from tests.helpers.learner.fakes import Setup, never
from tests.helpers.learner.train_steps import make_step


def copy(version, fetch=lambda: np.zeros(1, np.float32)):
    return Copy(version, env_steps=0, updates=version, fetch=fetch)


def test_of_copies_that_wait_only_the_newest_is_published_and_the_caller_goes_on():
    published, fetching, there = [], threading.Event(), threading.Event()

    def slow():
        fetching.set()
        assert there.wait(patient(20))
        return np.zeros(1, np.float32)

    sut = Publisher(lambda weights: published.append(weights.version), in_background=True)
    sut.publish(copy(0, slow))
    assert fetching.wait(patient(20))
    for version in (1, 2, 3):
        sut.publish(copy(version))
    assert published == []
    there.set()
    sut.close()
    assert published == [0, 3]


def test_on_a_cpu_weights_are_published_at_once_and_none_is_left_out():
    published = []
    sut = Publisher(
        lambda weights: published.append((weights.version, threading.get_ident())), in_background=False
    )
    for version in range(3):
        sut.publish(copy(version))
        assert not sut.is_soon
    sut.close()
    assert published == [(version, threading.get_ident()) for version in range(3)]


def test_what_a_publication_raises_reaches_the_learner_and_later_ones_go_on():
    published = []

    def publish(weights):
        if weights.version == 0:
            raise OSError("nobody there")
        published.append(weights.version)

    sut = Publisher(publish, in_background=True)
    sut.publish(copy(0))
    with pytest.raises(OSError, match="nobody there"):
        sut.close()
    sut.publish(copy(1))
    sut.close()
    assert published == [1]


@pytest.mark.parametrize(("least_seconds", "publications"), [(0.0, 8), (1e6, 2)])
def test_publications_of_fast_updates_are_not_closer_than_the_least_time(
    tmp_path, monkeypatch, least_seconds, publications
):
    """But the first and the last are made whenever they are."""
    monkeypatch.setattr(publisher, "LEAST_SECONDS", least_seconds)
    setup = Setup(tmp_path, [160], total=160, publish_period=5, under_way=True, checkpoint_period=100)
    setup.learner.run(never)
    assert setup.learner.updates == 35
    assert setup.learner.weights_version + 1 == publications + (least_seconds == 0.0)
    assert setup.published[-1].updates == 35


def test_a_copy_of_flat_weights_is_in_the_published_order():
    step = make_step()
    fetch = WeightsCopier(step.online_network, step._online_flat).begin()
    expected = flatten(step.online_network)
    with torch.no_grad():
        step._online_flat.fill_(0.0)
    np.testing.assert_array_equal(fetch(), expected)
