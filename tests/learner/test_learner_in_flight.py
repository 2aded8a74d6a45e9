"""Updates that a GPU computes while the learner goes on: what is done when, and that nothing is lost."""

import pytest

from learner import publisher
from learner.errors import LearnerError
from tests.helpers.learner.fakes import Setup, never

OPTIONS = {"total": 200, "checkpoint_period": 5, "publish_period": 3, "target_update_period": 4}
ARRIVALS = [60, 0, 40, 1, 0, 0, 59, 40]


def both(tmp_path, **options):
    setups = [
        Setup(tmp_path / name, ARRIVALS, under_way=name == "gpu", **OPTIONS, **options)
        for name in ("cpu", "gpu")
    ]
    assert [setup.learner.run(never) for setup in setups] == ["finished"] * 2
    return setups


@pytest.mark.parametrize("options", [{}, {"updates_in_flight": 0}, {"lockstep": True}])
def test_batches_know_the_same_priorities_as_on_a_cpu(tmp_path, monkeypatch, options):
    monkeypatch.setattr(publisher, "LEAST_SECONDS", 0.0)
    cpu, gpu = both(tmp_path, **options)
    drawn = [event for event in gpu.sampler.events if event not in ("launch", "take")]
    of_replay = [[e for e in events if not e.startswith("publish")] for events in (cpu.sampler.events, drawn)]
    assert of_replay[0] == of_replay[1]
    assert of_replay[0].count("sample") == gpu.learner.updates == cpu.learner.updates > 40
    assert [batch.leaf.tolist() for batch in gpu.train_step.batches] == [
        batch.leaf.tolist() for batch in cpu.train_step.batches
    ]
    assert gpu.train_step.copied_at == cpu.train_step.copied_at
    assert gpu.learner.weights_version == cpu.learner.weights_version
    assert gpu.published[-1].updates == cpu.published[-1].updates == gpu.learner.updates


def test_a_result_is_taken_while_the_next_update_is_computed(tmp_path):
    """And at once where there is no next batch, so that one is drawn which knows its priorities."""
    setup = Setup(tmp_path, [120], total=120, under_way=True, min_size=20)
    setup.learner.run(never)
    events = [event for event in setup.sampler.events if event in ("launch", "take", "sample")]
    assert events[:8] == ["sample", "launch", "sample", "launch", "take", "sample", "launch", "take"]
    assert events.count("launch") == events.count("take") == setup.learner.updates
    assert events[-1] == "take"


def test_a_checkpoint_holds_the_priorities_of_every_update_that_it_counts(tmp_path):
    setup = Setup(tmp_path, ARRIVALS, under_way=True, **OPTIONS)
    setup.learner.run(never)
    events = setup.sampler.events
    states = [index for index, event in enumerate(events) if event == "state"]
    assert len(states) >= 8
    for index in states:
        before = events[:index]
        assert before.count("launch") == before.count("take") == before.count("priorities")


def test_an_update_that_is_not_finite_is_named_when_its_result_comes(tmp_path):
    losses = [0.5, 0.5, float("nan")]
    setup = Setup(tmp_path, [60], total=60, losses=losses, under_way=True, checkpoint_period=100)
    with pytest.raises(LearnerError, match=r"loss of update 2 is nan; .*nan-batch-000000002\.npz"):
        setup.learner.run(never)
    assert len(setup.sampler.updated) == 2
    assert setup.store.load_newest() is None
