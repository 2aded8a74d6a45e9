"""What the loop saves and how it goes on from there; a loss or a gradient that is no number ends it."""

from dataclasses import replace

import numpy as np
import pytest

from learner.errors import CheckpointError, LearnerError
from learner.update.work import Finished
from models.config import NetworkConfig
from replay.owner.restore import RestoreReport
from tests.helpers.learner.fakes import Setup, never


def test_the_batch_drawn_ahead_is_in_the_checkpoint_and_is_the_next_to_be_learned(tmp_path):
    first = Setup(tmp_path, [60], total=120)
    first.learner.run(lambda: first.learner.updates >= 5)
    assert first.sampler.sampled == 6 * 8
    second = Setup(tmp_path, [60], total=120)
    second.learner.restore()
    second.learner.run(never)
    assert [batch.leaf[0] for batch in second.train_step.batches] == list(range(48, 201, 8))
    batch = second.train_step.batches[0]
    assert all(
        getattr(batch, name).dtype == value.dtype for name, value in vars(first.sampler.sample()).items()
    )
    assert second.train_step.steps == 25


def test_every_priority_is_in_before_a_checkpoint(tmp_path):
    setup = Setup(tmp_path, [60], total=60, checkpoint_period=1)
    setup.learner.run(never)
    events = setup.sampler.events
    for number, place in enumerate(i for i, event in enumerate(events) if event == "state"):
        assert events[:place].count("priorities") == min(number + 1, 10)


def test_the_document_of_a_checkpoint(tmp_path):
    setup = Setup(tmp_path, [60], total=60)
    setup.learner.run(never)
    document = setup.store.load_newest().document
    assert document["update"] == 10
    assert (document["env_steps"], document["sampled"]) == (60, 80)
    assert document["weights_version"] == setup.published[-1].version
    assert document["network"]["num_experts"] == 4
    assert (document["observation_shape"], document["num_actions"]) == ([1, 2, 2], 3)
    assert document["config"] == {"name": "test"}


@pytest.mark.parametrize("threads", [1, 2])
def test_a_resume_with_another_number_of_threads_says_so(tmp_path, caplog, threads):
    Setup(tmp_path, [60], total=60).learner.save()
    Setup(tmp_path, [60], total=60, threads=threads).learner.restore()
    told = "resume from update-000000000 is not bit-exact: threads were 1, are 2"
    assert (told in caplog.messages) == (threads == 2)


def test_a_stopped_run_saves_and_a_restored_one_goes_on(tmp_path):
    first = Setup(tmp_path, [60], total=120)
    assert first.learner.run(lambda: first.learner.updates >= 5) == "stopped"
    second = Setup(tmp_path, [60], total=120)
    assert second.learner.restore() is second.sampler.report
    assert second.learner.updates == second.train_step.steps == 5
    assert second.learner.run(never) == "finished"
    assert second.published[0].version == first.published[-1].version + 1
    assert second.sampler.sampled == 200
    assert second.store.load_newest().update == 25


def test_without_a_checkpoint_the_logs_are_indexed(tmp_path):
    setup = Setup(tmp_path, [], total=1)
    assert setup.learner.restore() is None
    assert setup.sampler.events == ["rebuild"]


def test_an_inexact_resume_says_so(tmp_path, caplog):
    Setup(tmp_path, [60], total=60).learner.run(never)
    setup = Setup(tmp_path, [], total=60)
    setup.sampler.report = RestoreReport(exact=False, dropped=17, items=43)
    assert not setup.learner.restore().exact
    assert "not exact: 17 items" in caplog.text


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    Setup(tmp_path, [60], total=60).learner.run(never)
    setup = Setup(tmp_path, [], total=60)
    setup.learner._network = NetworkConfig(num_experts=8)
    with pytest.raises(CheckpointError, match="another network"):
        setup.learner.restore()


def test_how_weights_began_is_no_matter_of_a_checkpoint(tmp_path):
    Setup(tmp_path, [60], total=60).learner.run(never)
    setup = Setup(tmp_path, [], total=60)
    setup.learner._network = replace(setup.learner._network, initializer="fan_in")
    assert setup.learner.restore() is not None


@pytest.mark.parametrize(("distributional", "values"), [(True, "c51"), (False, "scalar")])
def test_a_checkpoint_of_before_there_were_values_is_resumed(tmp_path, distributional, values):
    first = Setup(tmp_path, [60], total=60)
    first.learner.run(never)
    saved = first.store.load_newest()
    network = {n: v for n, v in saved.document["network"].items() if n not in ("values", "num_quantiles")}
    document = saved.document | {"network": network | {"distributional": distributional}}
    first.store.save(saved.update, saved.tensors, document)
    setup, other = Setup(tmp_path, [], total=60), Setup(tmp_path, [], total=60)
    setup.learner._network = NetworkConfig(values=values)
    assert setup.learner.restore() is not None
    assert setup.learner.updates == saved.update
    other.learner._network = NetworkConfig(values="quantile")
    with pytest.raises(CheckpointError, match="another network"):
        other.learner.restore()


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_saves_the_batch(tmp_path, loss):
    setup = Setup(tmp_path, [60], total=60, losses=[0.5, 0.5, loss], checkpoint_period=1)
    with pytest.raises(LearnerError, match=r"nan-batch-000000002\.npz") as caught:
        setup.learner.run(never)
    assert str(tmp_path) in str(caught.value)
    with np.load(tmp_path / "nan-batch-000000002.npz", allow_pickle=False) as saved:
        assert saved["observation"].shape == (8, 1, 2, 2)
        assert set(saved.files) >= {"action", "reward", "discount", "importance_weight", "leaf"}
    assert len(setup.sampler.updated) == 2
    assert setup.store.load_newest().update == 2


def test_a_gradient_that_is_not_finite_stops_the_run_before_anything_is_saved_or_published(tmp_path):
    setup = Setup(tmp_path, [60], total=60, checkpoint_period=1, publish_period=1)
    launch = setup.train_step.launch

    def broken(batch, meanwhile):
        launched = launch(batch, meanwhile)
        if setup.train_step.steps != 3:
            return launched
        return Finished(replace(launched.take(), grad_norm=float("inf")))

    setup.train_step.launch = broken
    with pytest.raises(LearnerError, match=r"gradient's norm of update 2 is inf; .*nan-batch-000000002\.npz"):
        setup.learner.run(never)
    assert setup.store.load_newest().update == 2
    assert [weights.parameters[0] for weights in setup.published] == [0, 1, 2]


def test_a_checkpoint_that_is_asked_for_is_written_beside_the_periodic_ones(tmp_path):
    setup = Setup(tmp_path, [60], total=60, checkpoint_period=4)
    saved, snapshot = [], setup.learner._snapshot

    def noted():
        saved.append(setup.learner.updates)
        return snapshot()

    def asks():
        if setup.learner.updates == 6:
            setup.learner.ask_to_save()
        return False

    setup.learner._snapshot = noted
    setup.learner.run(asks)
    # 10 updates: at 4 and 8 by its period, after the seventh as asked, and at the end.
    assert saved == [4, 7, 8, 10]


def test_a_learner_that_waits_saves_when_asked(tmp_path):
    setup = Setup(tmp_path, [60], total=120)
    saved, snapshot, looks = [], setup.learner._snapshot, []

    def noted():
        saved.append(setup.learner.updates)
        return snapshot()

    def asks():
        looks.append(setup.learner.updates)
        if looks.count(looks[-1]) == 3:
            setup.learner.ask_to_save()
        return looks.count(looks[-1]) == 6

    setup.learner._snapshot = noted
    assert setup.learner.run(asks) == "stopped"
    # Each turn makes an update, until there is nothing to learn from; the second is that of the end.
    assert saved == [setup.learner.updates] * 2
