"""Benchmarks give torch the learner's threads before they build a train step, whose team is fixed then."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from deploy.bench import diagnostics, learner, limits
from deploy.run.config import Config, with_values
from deploy.run.presets import LAPTOP

CORES = {0, 1, 2}


class Built(Exception):
    """A train step was built: nothing is measured."""


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """A learner that uses all of three cores, in a process that torch gave one thread."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: CORES)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield with_values(LAPTOP, environment__env="tests.helpers.catch:make", learner__cpus=0)
    torch.set_num_threads(before)


@pytest.fixture
def built_with(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Torch's threads whenever a train step was built."""
    seen: list[int] = []

    def make(*_: Any) -> None:
        seen.append(torch.get_num_threads())
        raise Built

    @contextlib.contextmanager
    def no_shards(_: Config) -> Iterator[list[Any]]:
        yield []

    monkeypatch.setattr(limits, "make_train_step", make)
    monkeypatch.setattr(learner, "open_shards", no_shards)
    monkeypatch.setattr(learner, "_filled_sampler", lambda *_: None)
    return seen


def test_the_learners_threads_are_all_cores_unless_they_are_given(config: Config) -> None:
    assert config.learner.cpu_threads == len(CORES)
    assert with_values(config, learner__cpus=2).learner.cpu_threads == 2


def test_a_train_step_is_built_with_the_learners_threads(config: Config, built_with: list[int]) -> None:
    for measure in (limits.update_samples_per_s, learner.run, diagnostics.run):
        with pytest.raises(Built):
            measure(config, seconds=0.0)
    assert built_with == [len(CORES)] * 3
    assert torch.get_num_threads() == 1
