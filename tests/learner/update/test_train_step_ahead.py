"""The next batch is begun while an update is computed, and that changes no number."""

import dataclasses
import itertools
import threading
from functools import partial

import numpy as np
import pytest
import torch

from tests.helpers.deadline import patient
from tests.helpers.learner.train_steps import NETWORK, make_batch, make_step


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
@pytest.mark.parametrize(("threads", "size"), [(1, 16), (2, 16), (2, 64)])
def test_what_is_begun_ahead_changes_no_number(threads, size, copy_at):
    """Also when the target network, whose word was taken ahead, is replaced before it is used."""
    batches = [make_batch(seed, size=size) for seed in range(4)]
    options = {"copy_at": copy_at, "cpus": threads, "batch_size": size, "learning_rate": 1e-2}
    plain, ahead = (_train(batches, ahead=flag, **options) for flag in (False, True))
    np.testing.assert_array_equal(plain[0], ahead[0])
    assert plain[1] == ahead[1]


def wait_for_the_look_ahead(step):
    """Have the member with the only share wait until the next batch was evaluated, where there is one.

    Returns a list that receives the thread of each evaluation.
    """
    done, lookers = threading.Event(), []
    differentiate, look_ahead = step._differentiate, step._look_ahead

    def late(*work):
        assert done.wait(patient(30))
        done.clear()
        return differentiate(*work)

    def evaluate(task):
        lookers.append(threading.get_ident())
        task()
        done.set()

    def watched(batch):
        tasks = look_ahead(batch)
        if not tasks:
            done.set()
        return [partial(evaluate, task) for task in tasks]

    step._differentiate, step._look_ahead = late, watched
    return lookers


@pytest.mark.parametrize("threads", [1, 2])
def test_of_two_threads_the_caller_begins_the_next_batch_while_the_other_computes_the_gradient(threads):
    """And that changes no number, and neither does the second thread."""
    batches = [make_batch(seed, size=32) for seed in range(4)]
    options = {"seed": 5, "batch_size": 32, "learning_rate": 1e-2}
    early, plain = make_step(cpus=2, **options), make_step(cpus=threads, **options)
    lookers = wait_for_the_look_ahead(early)
    for batch, following in itertools.zip_longest(batches, batches[1:]):
        result, expected = early.step(batch, lambda batch=following: batch), plain.step(batch)
        assert result.loss == expected.loss
        np.testing.assert_array_equal(result.priorities, expected.priorities)
        assert result.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)
    np.testing.assert_array_equal(early.parameters(), plain.parameters())
    assert lookers == [threading.get_ident()] * 3


def target_noise_of(step, batches, *, ahead):
    """Train on batches and return the target network's noise in each update, as one row (F,) an update.

    After update 0 comes a copy of the target network, after update 1 another batch than expected, and after
    update 2 the step goes on from its own state.
    """
    used, target = [], step.target

    def watched(data, noise, next_values):
        used.append(torch.cat([*next_values.noise.hidden, *next_values.noise.output], dim=1)[0])
        return target(data, noise, next_values)

    step.target = watched
    expected = [batches[1], make_batch(9, size=32), *batches[3:], None]
    for index, batch in enumerate(batches):
        step.step(batch, lambda batch=expected[index]: batch if ahead else None)
        if index == 0:
            step.copy_target()
        elif index == 2:
            step.restore(*step.state())
    return torch.stack(used)


@pytest.mark.parametrize("noise_per", ["batch", "row"])
def test_an_updates_target_noise_is_the_same_whether_it_was_looked_ahead_or_not(noise_per):
    batches = [make_batch(seed, size=32) for seed in range(5)]
    network = dataclasses.replace(NETWORK, noise_per=noise_per)
    early, plain = (make_step(network=network, cpus=2, batch_size=32) for _ in range(2))
    lookers = wait_for_the_look_ahead(early)
    noise = target_noise_of(early, batches, ahead=True)
    assert len(lookers) == 4
    assert torch.equal(noise, target_noise_of(plain, batches, ahead=False))
    assert len({tuple(row.tolist()) for row in noise}) == 5, "each update has other noise"
    np.testing.assert_array_equal(early.parameters(), plain.parameters())


def test_another_batch_than_the_one_expected_has_the_same_noise():
    first, second, third = (make_batch(seed, size=16) for seed in range(3))
    plain, surprised = (make_step(cpus=2, batch_size=16) for _ in range(2))
    plain.step(first)
    surprised.step(first, lambda: third)
    assert plain.step(second).loss == surprised.step(second).loss


def test_a_state_taken_while_a_batch_waits_goes_on_as_if_nothing_had_been():
    first, second = (make_batch(seed, size=16) for seed in range(2))
    step, other = (make_step(cpus=2, batch_size=16) for _ in range(2))
    step.step(first, lambda: second)
    other.step(first)  # and whatever it knows is replaced
    other.restore(*step.state())
    assert step.step(second).loss == other.step(second).loss
    np.testing.assert_array_equal(step.parameters(), other.parameters())
