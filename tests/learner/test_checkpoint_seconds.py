"""Checkpoints by the clock: written when they are due, and no update depends on them."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from learner.checkpoint import CheckpointStore
from tests.helpers.learner.diagnosed import UPDATES, train
from tests.helpers.learner.fakes import Setup, never


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the learner's clock is a minute later than the last."""
    ticks = itertools.count()
    # The learner's alone: other modules have the same `time`.
    monkeypatch.setattr(
        "learner.checkpoint_clock.time", SimpleNamespace(monotonic=lambda: 60.0 * next(ticks))
    )


@pytest.mark.usefixtures("minutes")
def test_the_earlier_of_seconds_and_updates_decides(tmp_path):
    # A snapshot and each update look at the clock once: one is due at every fourth update.
    setup = Setup(tmp_path, [100], total=100, checkpoint_period=7, checkpoint_seconds=240.0)
    taken = []
    setup.learner._writer.submit = lambda snapshot: taken.append(snapshot.update)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup.learner, "save", lambda: None)
        setup.learner.run(never)
    assert taken == [4, 7, 11, 14, 18]


@pytest.mark.usefixtures("minutes")
def test_zero_seconds_leave_it_to_the_updates(tmp_path):
    setup = Setup(tmp_path, [100], total=100, checkpoint_period=7, checkpoint_seconds=0.0)
    taken = []
    setup.learner._writer.submit = lambda snapshot: taken.append(snapshot.update)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup.learner, "save", lambda: None)
        setup.learner.run(never)
    assert taken == [7, 14]


def test_updates_are_bit_identical_with_a_checkpoint_after_each_and_without(tmp_path):
    ends = []
    for name, seconds in (("without", 0.0), ("with", 1e-9)):
        learner, _, sampler, published = train(tmp_path / name, 0, checkpoint_seconds=seconds)
        newest = CheckpointStore(tmp_path / name / "checkpoints").load_newest()
        assert newest is not None
        assert learner.metrics()["learner/checkpoints"] == (UPDATES + 1 if seconds else 1)
        ends.append((newest.tensors, sampler.batches, published))
    (tensors, batches, published), (others, other_batches, other_published) = ends
    assert tensors.keys() == others.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []
    assert [b.reward.tolist() for b in batches] == [b.reward.tolist() for b in other_batches]
    assert [w.parameters.tolist() for w in published] == [w.parameters.tolist() for w in other_published]
