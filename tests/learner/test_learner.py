"""The loop: ratio, target copies, publications, checkpoints, waiting, stopping, a loss that is NaN."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from learner.checkpoint import CheckpointStore
from learner.config import LearnerConfig
from learner.errors import CheckpointError, LearnerError
from learner.learner import LOOK_SECONDS, Learner, seconds_to_next_look
from learner.telemetry import MetricsBoard, SpeedWindow
from models.config import NetworkConfig
from replay.config import ReplayConfig
from replay.owner.restore import RestoreReport
from replay.types import Batch
from tests.helpers.deadline import patient, until


class FakeSampler:
    """A replay that lives in memory: each `ingest` brings the next of `arrivals` items."""

    has_nothing = False

    def __init__(self, arrivals, *, min_size, samples_per_insert, batch_size, error_buffer):
        self.arrivals = list(arrivals)
        self.min_size, self.spi, self.batch_size = min_size, samples_per_insert, batch_size
        self.error_buffer = error_buffer
        self.inserted = self.sampled = 0
        self.events: list[str] = []
        self.updated: list[np.ndarray] = []
        self.dead: set[tuple[int, int]] = set()
        self.report = RestoreReport(exact=True, dropped=0, items=0)

    def ingest(self):
        added = self.arrivals.pop(0) if self.arrivals else 0
        self.inserted += added
        return added

    def can_sample(self):
        after = self.inserted * self.spi - self.sampled - self.batch_size
        return self.inserted >= self.min_size and after >= self.min_size * self.spi - self.error_buffer

    def sample(self):
        assert self.can_sample()
        self.sampled += self.batch_size
        self.events.append("sample")
        size, observation = self.batch_size, np.zeros((self.batch_size, 1, 2, 2), np.uint8)
        ones = np.ones(size, np.float32)
        leaf = np.arange(size, dtype=np.int64) + self.sampled  # names the batch
        zeros = np.zeros(size, np.int64)
        return Batch(
            observation, zeros, ones, ones, observation, ones.astype(np.float64), ones, leaf, leaf, zeros
        )

    def update_priorities(self, leaf, generation, priorities):
        self.events.append("priorities")
        self.updated.append(priorities)

    def mark_dead(self, incarnations):
        self.dead |= incarnations

    def metrics(self):
        return {"replay/size": float(self.inserted)}

    def rebuild(self):
        self.events.append("rebuild")

    def state(self):
        self.events.append("state")
        return {"sampled": self.sampled, "inserted": self.inserted}, {"masses": np.arange(3.0)}

    def restore(self, document, arrays):
        self.sampled, self.inserted = document["sampled"], document["inserted"]
        assert np.array_equal(arrays["masses"], np.arange(3.0))
        return self.report


class FakeTrainStep:
    """Counts steps and copies; its only parameter is the number of steps."""

    def __init__(self, *, losses=(), seconds=0.0):
        self.observation_shape, self.num_actions = (1, 2, 2), 3
        self.steps, self.copied_at, self.batches = 0, [], []
        self._losses, self._seconds = list(losses), seconds

    def step(self, batch, meanwhile):
        meanwhile()
        self.steps += 1
        self.batches.append(batch)
        time.sleep(self._seconds)
        loss = self._losses.pop(0) if self._losses else 0.5
        priorities = np.full(len(batch.leaf), self.steps, np.float32)
        return SimpleNamespace(priorities=priorities, loss=loss, q_mean=1.5, grad_norm=2.5)

    def copy_target(self):
        self.copied_at.append(self.steps)

    def parameters(self):
        return np.array([self.steps], np.float32)

    def state(self):
        return {"online/w": torch.tensor([float(self.steps)])}, {"steps": self.steps}

    def restore(self, tensors, document):
        assert tensors["online/w"].item() == document["steps"]
        self.steps = document["steps"]


class Setup:
    """A learner on fakes: batch 8 every 4 items (2 samples an item), warm-up 20."""

    def __init__(self, folder, arrivals, *, total, min_size=20, error_buffer=40.0, lockstep=False, **options):
        folder.mkdir(exist_ok=True)
        train = {key: options.pop(key) for key in ("losses", "seconds") if key in options}
        config = LearnerConfig(batch_size=8, update_period=4, **options)
        self.sampler = FakeSampler(
            arrivals, min_size=min_size, samples_per_insert=2.0, batch_size=8, error_buffer=error_buffer
        )
        self.train_step = FakeTrainStep(**train)
        self.published = []
        self.store = CheckpointStore(folder / "checkpoints")
        self.learner = Learner(
            config,
            NetworkConfig(),
            ReplayConfig(min_size=min_size),
            sampler=self.sampler,
            train_step=self.train_step,
            publish=self.publish,
            checkpoints=self.store,
            total_env_steps=total,
            run_document={"name": "test"},
            lockstep=lockstep,
        )

    def publish(self, weights):
        self.published.append(weights)
        self.sampler.events.append(f"publish {weights.version}")


def never():
    return False


@pytest.mark.parametrize("total", [20, 23, 24, 120, 121, 10])
def test_a_finished_run_has_the_exact_number_of_samples(tmp_path, total):
    setup = Setup(tmp_path, [1] * total, total=total)
    assert setup.learner.run(never) == "finished"
    assert setup.sampler.inserted == total
    assert setup.sampler.sampled == max(total - 20, 0) // 4 * 8
    assert setup.learner.updates == setup.train_step.steps == setup.sampler.sampled // 8


def test_the_learner_runs_ahead_by_the_error_buffer_and_no_further(tmp_path):
    """24 items are 8 samples past the warm-up; the buffer allows 40 more, a run that ends soon fewer."""
    for total, lockstep, sampled in ((1000, False, 48), (32, False, 24), (1000, True, 8)):
        setup = Setup(tmp_path / str(sampled), [24], total=total, lockstep=lockstep)
        asked = iter(range(50))
        setup.learner.run(lambda asked=asked: next(asked) == 20)
        assert setup.sampler.sampled == sampled


def test_late_items_beyond_the_total_are_learned_from_too(tmp_path):
    setup = Setup(tmp_path, [50, 53], total=100)
    setup.learner.run(never)
    assert setup.sampler.sampled == (103 - 20) // 4 * 8


def test_the_ratio_is_exact_in_whole_numbers(tmp_path):
    """8 / 3 is not a binary fraction: counted in floats the last batch would come or not come by chance."""
    setup = Setup(tmp_path, [320], total=320)
    setup.learner._config = LearnerConfig(batch_size=8, update_period=3)
    setup.sampler.spi = 8 / 3
    setup.learner.run(never)
    assert setup.sampler.sampled == 800


@pytest.mark.parametrize("in_flight", [0, 1])
def test_no_more_updates_are_in_flight_at_a_draw_than_allowed(tmp_path, in_flight):
    setup = Setup(tmp_path, [60], total=60, updates_in_flight=in_flight)
    setup.learner.run(never)
    drawn = [event for event in setup.sampler.events if event in ("sample", "priorities")]
    if in_flight == 0:
        assert drawn == ["sample", "priorities"] * 10
    else:
        assert drawn == ["sample", "sample"] + ["priorities", "sample"] * 8 + ["priorities"] * 2
    assert [p[0] for p in setup.sampler.updated] == list(range(1, 11))
    assert [batch.leaf[0] for batch in setup.train_step.batches] == list(range(8, 81, 8))


def test_target_copies_publications_and_checkpoints_keep_their_periods(tmp_path):
    setup = Setup(tmp_path, [120], total=120, target_update_period=7, publish_period=10, checkpoint_period=12)
    setup.learner.run(never)
    assert setup.train_step.copied_at == [7, 14, 21]
    assert [weights.version for weights in setup.published] == [0, 1, 2, 3]
    assert [weights.parameters[0] for weights in setup.published] == [0, 10, 20, 25]
    assert [weights.env_steps for weights in setup.published] == [0, 120, 120, 120]
    newest = setup.store.load_newest()
    assert newest is not None
    assert (newest.update, newest.document["checkpoints"]) == (25, 3), "12, 24 and the last one"


def test_version_zero_is_published_before_anything_is_drawn(tmp_path):
    setup = Setup(tmp_path, [60], total=60)
    setup.learner.run(never)
    assert setup.sampler.events[0] == "publish 0"


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


def test_it_ends_when_all_is_in_and_all_is_lost(tmp_path):
    setup = Setup(tmp_path, [60], total=60)
    setup.sampler.inserted = 60
    setup.sampler.has_nothing = True
    assert setup.learner.run(never) == "finished"
    assert setup.learner.updates == 0


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
    step = setup.train_step.step

    def broken(batch, meanwhile):
        result = step(batch, meanwhile)
        result.grad_norm = float("inf") if setup.train_step.steps == 3 else 2.5
        return result

    setup.train_step.step = broken
    with pytest.raises(LearnerError, match=r"gradient's norm of update 2 is inf; .*nan-batch-000000002\.npz"):
        setup.learner.run(never)
    assert setup.store.load_newest().update == 2
    assert [weights.parameters[0] for weights in setup.published] == [0, 1, 2]


def test_an_idle_learner_rests_counts_as_waiting_and_stops_when_told(tmp_path):
    setup = Setup(tmp_path, [], total=60)
    stop, answer = threading.Event(), []
    thread = threading.Thread(target=lambda: answer.append(setup.learner.run(stop.is_set)), daemon=True)
    thread.start()
    until(lambda: setup.learner.metrics().get("learner/waiting_share", 0) > 0.5, "a learner that waits")
    cpu, start = _cpu_seconds(thread), time.monotonic()
    stop.wait(0.5)
    assert _cpu_seconds(thread) - cpu < 0.5 * (time.monotonic() - start), "an idle learner must not spin"
    stop.set()
    thread.join(patient(10))
    assert answer == ["stopped"]
    assert setup.learner.metrics()["learner/waiting_share"] > 0.5
    assert setup.store.load_newest().update == 0


def _cpu_seconds(thread):
    """Of this thread alone: others of earlier tests may still be at work."""
    times = next(t for t in psutil.Process().threads() if t.id == thread.native_id)
    return times.user_time + times.system_time


def test_a_busy_learner_does_not_count_as_waiting(tmp_path):
    began = time.monotonic()
    setup = Setup(tmp_path, [200], total=200, seconds=0.005)
    setup.learner.run(never)
    metrics = setup.learner.metrics()
    assert metrics["learner/waiting_share"] < 0.3
    made = metrics["progress/updates"]
    assert made / (time.monotonic() - began) <= metrics["speed/updates_per_s"] < 1 / 0.005


def test_metrics_have_the_agreed_names(tmp_path):
    setup = Setup(tmp_path, [60], total=60)
    setup.learner.run(never)
    metrics = setup.learner.metrics()
    assert metrics["progress/updates"] == 10
    assert metrics["progress/env_steps"] == metrics["replay/size"] == 60
    assert (metrics["learner/loss"], metrics["learner/q_mean"], metrics["learner/grad_norm"]) == (
        0.5,
        1.5,
        2.5,
    )
    assert metrics["learner/weights_version"] == 1
    assert metrics["learner/sample_age"] == 0
    assert metrics["learner/checkpoints"] == 1
    assert all(isinstance(value, float) for value in metrics.values())


def test_the_dead_are_handed_to_the_sampler_from_the_loop(tmp_path):
    setup = Setup(tmp_path, [60], total=60)
    setup.learner.mark_dead({(0, 1)})
    setup.learner.mark_dead({(2, 0)})
    assert setup.sampler.dead == set()
    setup.learner.run(never)
    assert setup.sampler.dead == {(0, 1), (2, 0)}


def test_lockstep_makes_all_earned_updates_and_then_publishes(tmp_path):
    """After each arrival: exactly the updates it earned, then one publication with the items counted."""
    setup = Setup(tmp_path, [12, 8, 9, 7, 4], total=40, lockstep=True, publish_period=1, seconds=0.006)
    setup.learner.run(never)
    events = [event for event in setup.sampler.events if event != "priorities"]
    expected = ["publish 0", "publish 1", "publish 2"]
    expected += (
        ["sample"] * 2 + ["publish 3"] + ["sample"] * 2 + ["publish 4"] + ["sample", "publish 5", "state"]
    )
    assert events == expected
    assert [weights.env_steps for weights in setup.published] == [0, 12, 20, 29, 36, 40]


def test_the_speed_window_forgets():
    now = [0.0]
    window = SpeedWindow(seconds=10, clock=lambda: now[0])
    for _ in range(40):
        now[0] += 0.5
        window.count(updates=2, waited=0.25)
    assert window.updates_per_s == pytest.approx(4.0, rel=0.15)
    assert window.waiting_share == pytest.approx(0.5, rel=0.15)
    assert window.largest_arrival == 0
    for arrived in (5, 40, 7):
        window.count(arrived=arrived)
        now[0] += 0.75
    assert window.largest_arrival == 40
    now[0] += 30
    assert window.updates_per_s == 0
    assert window.waiting_share == 0
    assert window.largest_arrival == 0


def test_the_burst_is_the_updates_that_arrive_at_once(tmp_path):
    setup = Setup(tmp_path, [20, 8, 48, 8], total=84)
    setup.learner.run(never)
    assert setup.learner.metrics()["replay/burst_updates"] == 48 / 4


def test_the_metrics_board_hands_out_copies():
    board = MetricsBoard()
    board.write({"a": 1.0})
    board.read()["a"] = 2.0
    assert board.read() == {"a": 1.0}


def test_looks_are_spaced_by_what_they_cost() -> None:
    assert [seconds_to_next_look(took) for took in (0.0, 0.0001, 1.0)] == [
        LOOK_SECONDS[0],
        LOOK_SECONDS[0],
        LOOK_SECONDS[1],
    ]
    assert LOOK_SECONDS[0] < seconds_to_next_look(0.002) < seconds_to_next_look(0.003) < LOOK_SECONDS[1]
