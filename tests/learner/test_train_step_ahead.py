"""The next batch is begun while an update is computed, and that changes no number."""

import threading

import numpy as np
import pytest

from tests.helpers.deadline import patient
from tests.helpers.learner.train_steps import make_batch, make_step


def _train(batches, *, ahead, copy_at=-1, **options):
    """Parameters and losses of updates on these batches, each told of the next one if `ahead`."""
    step, results = make_step(seed=5, **options), []
    for index, batch in enumerate(batches):
        following = batches[index + 1] if ahead and index + 1 < len(batches) else None
        results.append(step.step(batch, lambda following=following: following))
        if index == copy_at:
            step.copy_target()
    return step.parameters(), [(result.loss, result.grad_norm, *result.priorities) for result in results]


@pytest.mark.parametrize("copy_at", [-1, 1])
@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_begun_ahead_changes_no_number(threads, copy_at):
    """Also when the target network, whose word was taken ahead, is replaced before it is used."""
    batches = [make_batch(seed, size=16) for seed in range(4)]
    options = {"copy_at": copy_at, "num_threads": threads, "batch_size": 16, "learning_rate": 1e-2}
    plain, ahead = (_train(batches, ahead=flag, **options) for flag in (False, True))
    np.testing.assert_array_equal(plain[0], ahead[0])
    assert plain[1] == ahead[1]


def test_idle_members_do_begin_ahead():
    step, batches = make_step(num_threads=2, batch_size=16), [make_batch(seed, size=16) for seed in range(2)]
    drawn, differentiate = threading.Event(), step._differentiate

    def late(member, *rest):
        assert drawn.wait(patient(30))
        return differentiate(member, *rest)

    def draw():
        drawn.set()
        return batches[1]

    step._differentiate = late
    for _ in range(20):  # a member takes a task unless the other waits for it already
        drawn.clear()
        step.step(batches[0], draw)
        if step._ahead.next_values:
            return
        step._ahead = None
    pytest.fail("nothing was ever begun ahead")


def test_another_batch_than_the_one_expected_has_the_same_noise():
    first, second, third = (make_batch(seed, size=16) for seed in range(3))
    plain, surprised = (make_step(num_threads=2, batch_size=16) for _ in range(2))
    plain.step(first)
    surprised.step(first, lambda: third)
    assert plain.step(second).loss == surprised.step(second).loss


def test_a_state_taken_while_a_batch_waits_goes_on_as_if_nothing_had_been():
    first, second = (make_batch(seed, size=16) for seed in range(2))
    step, other = (make_step(num_threads=2, batch_size=16) for _ in range(2))
    step.step(first, lambda: second)
    other.step(first)  # and whatever it knows is replaced
    other.restore(*step.state())
    assert step.step(second).loss == other.step(second).loss
    np.testing.assert_array_equal(step.parameters(), other.parameters())
