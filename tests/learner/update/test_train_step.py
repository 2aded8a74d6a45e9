"""TrainStep: what an update changes, exact resume, precision, learning."""

import dataclasses

import numpy as np
import pytest
import torch

from models.arrays import load
from models.q_network import build_network
from tests.helpers.learner.train_steps import NETWORK, SHAPE, make_batch, make_step

DTYPES = ["float32", "bfloat16"]
VALUES = ["scalar", "c51", "quantile"]


def test_update_changes_the_online_network_only():
    step = make_step()
    online, target = step.parameters(), [p.clone() for p in step.target_network.parameters()]
    result = step.step(make_batch())
    assert result.priorities.shape == (4,)
    assert result.priorities.dtype == np.float32
    assert result.loss == pytest.approx(
        float((make_batch().importance_weight * result.priorities).mean()), rel=1e-5
    )
    assert result.grad_norm > 0
    assert (step.parameters() != online).mean() > 0.5
    assert all(torch.equal(a, b) for a, b in zip(target, step.target_network.parameters(), strict=True))
    step.copy_target()
    pairs = zip(step.online_network.parameters(), step.target_network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("noisy", [True, False])
def test_resume_is_bit_identical(precision, noisy):
    network = dataclasses.replace(NETWORK, noisy=noisy)
    first = make_step(seed=1, network=network, precision=precision)
    first.step(make_batch(0))
    first.copy_target()
    first.step(make_batch(1))
    tensors, document = first.state()
    assert all(tensor.device.type == "cpu" for tensor in tensors.values())
    second = make_step(seed=2, network=network, precision=precision)
    assert second.restore(tensors, document) == ""
    for seed in range(2, 5):
        results = [step.step(make_batch(seed)) for step in (first, second)]
        np.testing.assert_array_equal(results[0].priorities, results[1].priorities)
        assert results[0].loss == results[1].loss
        if seed == 3:
            first.copy_target()
            second.copy_target()
    np.testing.assert_array_equal(first.parameters(), second.parameters())
    for name, tensor in first.state()[0].items():
        assert torch.equal(tensor, second.state()[0][name]), name


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", [1, 5, 16])
def test_threads_share_the_batch_without_changing_the_update(threads, size):
    results, steps = [], []
    for count in (1, 2, 3):
        threads(count)
        step = make_step(seed=3)
        results.append([step.step(make_batch(size=rows)) for rows in (16, size)][-1])
        steps.append(step)
    for result, step in zip(results[1:], steps[1:], strict=True):
        np.testing.assert_allclose(result.priorities, results[0].priorities, rtol=1e-4)
        assert result.loss == pytest.approx(results[0].loss, rel=1e-5)
        assert result.q_mean == pytest.approx(results[0].q_mean, rel=1e-3, abs=1e-6)
        assert result.grad_norm == pytest.approx(results[0].grad_norm, rel=1e-4)
        np.testing.assert_allclose(step.parameters(), steps[0].parameters(), atol=2e-6)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("precision", DTYPES)
def test_resume_is_bit_identical_with_threads(threads, precision, count):
    threads(count)
    first = make_step(seed=1, precision=precision)
    first.step(make_batch(0, size=16))
    second = make_step(seed=2, precision=precision)
    second.restore(*first.state())
    for step in (first, second):
        for seed in (1, 2):
            step.step(make_batch(seed, size=16))
    np.testing.assert_array_equal(first.parameters(), second.parameters())


@pytest.mark.parametrize("num_threads", [1, 2])
def test_moments_of_weights_without_gradient_end_at_zero(threads, num_threads):
    """Not at numbers so small that arithmetic on them is slow."""
    threads(1)  # inside of operators
    step = make_step(cpus=num_threads, batch_size=16)
    for moment in step.optimizer._moments.values():
        moment.fill_(1e-37)  # one step from there
    black = make_batch(size=16, observation=np.zeros((16, *SHAPE), np.uint8))
    for _ in range(30):
        step.step(black)
    first = step.state()[0]["optimizer/exp_avg/encoder.convolutions.0.weight"]
    assert first.numel() > 100
    assert not first.any(), "black frames give the first kernel no gradient"
    for moment in step.optimizer._moments.values():
        size = moment.view(torch.int32) & 0x7FFFFFFF  # by its bits: a thread that flushes sees only zeros
        assert not ((size > 0) & (size < 0x00800000)).any()
    assert np.float32(1e-40) * np.float32(1.0) > 0.0, "this thread is as it was"


@pytest.mark.parametrize("count", [1, 3])
def test_the_state_says_how_many_threads_the_updates_are_made_with(threads, count):
    """Also for a batch too small to be shared."""
    threads(2)
    assert make_step(cpus=count, batch_size=8).state()[1]["num_threads"] == count


def test_noise_that_other_hardware_drew_begins_anew_from_seed_and_update():
    """A GPU's generator has a state of 16 bytes, which a CPU's cannot take."""
    network = dataclasses.replace(NETWORK, noisy=True)
    tensors, document = make_step(seed=1, network=network).state()
    for name in ("noise_generator", "judge_noise_generator"):
        tensors[name] = torch.zeros(16, dtype=torch.uint8)
    losses = []
    for seed, update in ((1, 7), (1, 7), (1, 8), (2, 7)):
        step = make_step(seed=seed, network=network)
        assert step.restore(tensors, document, update=update) == "the noise was drawn by other hardware"
        losses.append(step.step(make_batch()).loss)
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_another_number_of_threads_is_told(threads):
    tensors, document = make_step(cpus=1).state()
    assert make_step(cpus=2).restore(tensors, document) == "threads were 1, are 2"


def test_state_is_a_copy():
    step = make_step()
    tensors, _ = step.state()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    step.step(make_batch())
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)


def test_same_seed_same_updates_and_no_global_random_state():
    state = torch.get_rng_state()
    losses = []
    for _ in range(2):
        step = make_step(seed=4)
        losses.append([step.step(make_batch(seed)).loss for seed in range(2)])
    assert losses[0] == losses[1]
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_differs_between_the_networks_and_between_updates():
    step = make_step(learning_rate=0.0, network=dataclasses.replace(NETWORK, noisy_sigma=2.0), cpus=1)
    drawn = []

    def watch(sample):
        return lambda *a, **k: drawn.append(sample(*a, **k)) or drawn[-1]

    for network in (step.online_network, step.target_network):
        network.sample_noise = watch(network.sample_noise)
    first, second = step.step(make_batch()), step.step(make_batch())
    assert first.loss != second.loss
    assert len(drawn) == 6
    factors = torch.stack([noise.output.inputs[0] for noise in drawn])
    assert len({tuple(row.tolist()) for row in factors}) == 6


def test_every_member_of_the_team_draws_the_same_noise():
    step = make_step(cpus=4, batch_size=32)
    for _ in range(2):
        draws = [step.noise_of(member, 32).online.output.inputs for member in range(4)]
        assert all(torch.equal(draw, draws[0]) for draw in draws)


@pytest.mark.parametrize("values", VALUES)
def test_double_is_chosen_by_the_online_network(values):
    network = dataclasses.replace(NETWORK, noisy=False, values=values, v_min=-2.0, v_max=2.0)
    step, single = make_step(network=network), make_step(network=network, double=False)
    for each in (step, single):
        with torch.no_grad():
            each.target_network.output.linear.weight.neg_()
    batch = make_batch(size=16, discount=np.ones(16, np.float32), reward=np.zeros(16, np.float32))
    data = step.to_device(batch)
    with torch.no_grad():
        judge = step.target_network(data.next_observation).q_values
        chosen = step.online_network(data.next_observation).q_values.argmax(dim=1)
    assert (chosen != judge.argmax(dim=1)).any()

    def means(target):
        if values == "c51":
            return target @ step.target_network.support
        return target.mean(dim=1) if values == "quantile" else target

    rows = torch.arange(16)
    torch.testing.assert_close(means(step.target(data)), judge[rows, chosen], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(means(single.target(data)), judge.amax(dim=1), atol=1e-5, rtol=1e-4)


def test_a_loss_that_is_not_finite_changes_nothing():
    step = make_step()
    before = step.state()[0]
    result = step.step(make_batch(reward=np.full(4, np.nan, np.float32)))
    assert np.isnan(result.loss)
    after = step.state()[0]
    assert all(torch.equal(before[n], after[n]) for n in before if "noise_generator" not in n)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_gradient_is_clipped_to_its_largest_norm(threads):
    options = {"cpus": threads, "batch_size": 16}
    free, loose, tight = (make_step(max_grad_norm=norm, **options) for norm in (0.0, 1e6, 0.01))
    results = [step.step(make_batch(size=16)) for step in (free, loose, tight)]
    assert results[0].grad_norm == results[1].grad_norm == results[2].grad_norm > 0.1, "as it was before"
    np.testing.assert_array_equal(loose.parameters(), free.parameters())
    clipped = 0.01 / results[0].grad_norm
    for name, gradient in tight.gradients().items():
        torch.testing.assert_close(gradient, clipped * free.gradients()[name], rtol=1e-4, atol=1e-9)


def test_bfloat16_follows_float32():
    network = dataclasses.replace(NETWORK, noisy=False)
    exact, rounded = make_step(network=network), make_step(network=network, precision="bfloat16")
    a, b = exact.step(make_batch(size=16)), rounded.step(make_batch(size=16))
    assert b.loss == pytest.approx(a.loss, rel=0.02)
    assert b.grad_norm == pytest.approx(a.grad_norm, rel=0.05)
    for name, gradient in exact.gradients().items():
        other = rounded.gradients()[name]
        assert other.dtype == torch.float32
        similarity = torch.cosine_similarity(gradient.flatten(), other.flatten(), dim=0)
        assert similarity > 0.98, name
    assert {p.dtype for p in rounded.online_network.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize(
    ("values", "loss"),
    [("c51", "huber"), ("quantile", "huber"), ("scalar", "huber"), ("scalar", "squared")],
)
def test_it_learns_a_fixed_batch(precision, values, loss):
    network = dataclasses.replace(NETWORK, values=values, noisy=False, v_min=-3.0, v_max=3.0)
    step = make_step(network=network, precision=precision, learning_rate=1e-3, loss=loss)
    batch = make_batch(size=8, discount=np.zeros(8, np.float32))
    for _ in range(60):
        result = step.step(batch)
    with torch.no_grad():
        values = step.online_network(torch.from_numpy(batch.observation)).q_values.numpy()
    np.testing.assert_allclose(values[np.arange(8), batch.action], batch.reward, atol=0.35)
    assert np.isfinite(result.loss)


def test_parameters_load_into_an_actors_network():
    step = make_step()
    step.step(make_batch())
    copy = build_network(NETWORK, 3, observation_shape=SHAPE, seed=8)
    load(copy, step.parameters())
    observation = torch.from_numpy(make_batch().observation)
    with torch.no_grad():
        torch.testing.assert_close(copy(observation).q_values, step.online_network(observation).q_values)
