"""The loop: ratio, target copies, publications, periods, waiting, stopping, metrics."""

import threading
import time

import psutil
import pytest

from learner.batches import LOOK_SECONDS, seconds_to_next_look
from learner.config import LearnerConfig
from learner.telemetry import MetricsBoard, SpeedWindow
from tests.helpers.deadline import patient, until
from tests.helpers.learner.fakes import Setup, never


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
    setup.learner.batches._config = LearnerConfig(batch_size=8, update_period=3)
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


def test_it_ends_when_all_is_in_and_all_is_lost(tmp_path):
    setup = Setup(tmp_path, [60], total=60)
    setup.sampler.inserted = 60
    setup.sampler.has_nothing = True
    assert setup.learner.run(never) == "finished"
    assert setup.learner.updates == 0


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


def test_waits_grow_until_something_arrives_or_is_learned(tmp_path, monkeypatch):
    slept = []
    setup = Setup(tmp_path, [], total=60)
    batches = setup.learner.batches
    monkeypatch.setattr("learner.batches.time.sleep", slept.append)

    def waits():
        slept.clear()
        for _ in range(7):
            batches.wait()
        return list(slept)

    growing = [0.001, 0.002, 0.004, 0.008, 0.016, 0.02, 0.02]
    assert waits() == growing
    setup.sampler.arrivals.append(40)
    assert batches.next() is not None
    assert waits() == growing
    batches.learned(None, None)
    assert waits() == growing


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
    setup.learner.batches.mark_dead({(0, 1)})
    setup.learner.batches.mark_dead({(2, 0)})
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


def test_the_learning_rate_goes_down_with_the_env_steps(tmp_path):
    setup = Setup(tmp_path, [20, 20, 20], total=60, learning_rate=1e-3, final_learning_rate=1e-4)
    setup.learner.run(never)
    # Half a cosine from 1e-3 at 0 to 1e-4 at 60 env steps; at each update by the items inserted until then.
    rates = setup.train_step.rates
    assert rates[0] == pytest.approx(1e-4 + 9e-4 * 0.75)
    assert rates[-1] < rates[0]
    allowed = [1e-4 + 9e-4 * left for left in (0.75, 0.25, 0.0)]
    assert all(min(abs(rate - other) for other in allowed) < 1e-12 for rate in rates)
    assert rates == sorted(rates, reverse=True)
    constant = Setup(tmp_path / "constant", [60], total=60, learning_rate=1e-3)
    constant.learner.run(never)
    assert set(constant.train_step.rates) == {1e-3}


def test_pruning_follows_the_env_steps_before_the_target_copy(tmp_path):
    setup = Setup(tmp_path, [20, 20, 20], total=60, pruning_period=1, target_update_period=7)
    order = []
    prune, copy = setup.train_step.sparsity.prune, setup.train_step.copy_target
    setup.train_step.sparsity.prune = lambda share: (order.append("prune"), prune(share))
    setup.train_step.copy_target = lambda: (order.append("copy"), copy())
    setup.learner.run(never)
    shares = [share for _, share in setup.train_step.pruned]
    # A third, two thirds and all of 60 env steps are inserted; pruning is from 0.2 to 0.8.
    allowed = [1 - (1 - (progress - 0.2) / 0.6) ** 3 for progress in (1 / 3, 2 / 3, 0.8)]
    assert all(min(abs(share - other) for other in allowed) < 1e-12 for share in shares)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert order[:8] == ["prune"] * 7 + ["copy"]
    rare = Setup(tmp_path / "rare", [60], total=60, pruning_period=5)
    rare.learner.run(never)
    assert [steps for steps, _ in rare.train_step.pruned] == list(range(5, rare.learner.updates + 1, 5))
