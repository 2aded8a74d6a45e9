"""TrainStep: what an update changes, exact resume, precision, learning."""

import dataclasses
import threading

import numpy as np
import pytest
import torch

from learner.config import LearnerConfig
from learner.update.precision import choose_dtype
from learner.update.train_step import TrainStep
from models.arrays import load
from models.config import NetworkConfig
from models.q_network import build_network
from replay.types import Batch
from tests.helpers.deadline import patient

SHAPE = (2, 44, 44)
NETWORK = NetworkConfig(encoder="nature", padding="valid", expert_hidden_units=16, num_atoms=11)
DTYPES = ["float32", "bfloat16"]
VALUES = ["scalar", "c51", "quantile"]


def _step(seed=0, network=NETWORK, **changes):
    config = LearnerConfig(**{"precision": "float32", **changes})
    return TrainStep(network, config, num_actions=3, observation_shape=SHAPE, seed=seed, device="cpu")


def _batch(seed=0, size=4, **changes):
    rng = np.random.default_rng(seed)
    batch = Batch(
        observation=rng.integers(0, 256, (size, *SHAPE), dtype=np.uint8),
        action=rng.integers(0, 3, size),
        reward=rng.normal(size=size).astype(np.float32),
        discount=rng.choice([0.0, 0.97], size).astype(np.float32),
        next_observation=rng.integers(0, 256, (size, *SHAPE), dtype=np.uint8),
        probability=np.full(size, 0.1),
        importance_weight=rng.uniform(0.1, 1, size).astype(np.float32),
        leaf=np.arange(size),
        generation=np.zeros(size, np.int64),
        weights_version=np.zeros(size, np.int64),
    )
    return dataclasses.replace(batch, **changes)


def test_update_changes_the_online_network_only():
    step = _step()
    online, target = step.parameters(), [p.clone() for p in step.target_network.parameters()]
    result = step.step(_batch())
    assert result.priorities.shape == (4,)
    assert result.priorities.dtype == np.float32
    assert result.loss == pytest.approx(
        float((_batch().importance_weight * result.priorities).mean()), rel=1e-5
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
    first = _step(seed=1, network=network, precision=precision)
    first.step(_batch(0))
    first.copy_target()
    first.step(_batch(1))
    tensors, document = first.state()
    assert all(t.is_contiguous() and t.device.type == "cpu" for t in tensors.values())
    second = _step(seed=2, network=network, precision=precision)
    second.restore(tensors, document)
    for seed in range(2, 5):
        results = [step.step(_batch(seed)) for step in (first, second)]
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
        step = _step(seed=3)
        results.append([step.step(_batch(size=rows)) for rows in (16, size)][-1])
        steps.append(step)
    for result, step in zip(results[1:], steps[1:], strict=True):
        np.testing.assert_allclose(result.priorities, results[0].priorities, rtol=1e-4)
        assert result.loss == pytest.approx(results[0].loss, rel=1e-5)
        assert result.q_mean == pytest.approx(results[0].q_mean, rel=1e-3, abs=1e-6)
        assert result.grad_norm == pytest.approx(results[0].grad_norm, rel=1e-4)
        np.testing.assert_allclose(step.parameters(), steps[0].parameters(), atol=2e-6)


@pytest.mark.parametrize("precision", DTYPES)
def test_resume_is_bit_identical_with_threads(threads, precision):
    threads(2)
    first = _step(seed=1, precision=precision)
    first.step(_batch(0, size=16))
    second = _step(seed=2, precision=precision)
    second.restore(*first.state())
    for step in (first, second):
        for seed in (1, 2):
            step.step(_batch(seed, size=16))
    np.testing.assert_array_equal(first.parameters(), second.parameters())


@pytest.mark.parametrize("num_threads", [1, 2])
def test_moments_of_weights_without_gradient_end_at_zero(threads, num_threads):
    """Not at numbers so small that arithmetic on them is slow."""
    threads(1)  # inside of operators
    step = _step(num_threads=num_threads, batch_size=16)
    for moment in step.optimizer._moments.values():
        moment.fill_(1e-37)  # one step from there
    black = _batch(size=16, observation=np.zeros((16, *SHAPE), np.uint8))
    for _ in range(30):
        step.step(black)
    first = step.state()[0]["optimizer/exp_avg/encoder.convolutions.0.weight"]
    assert first.numel() > 100
    assert not first.any(), "black frames give the first kernel no gradient"
    for moment in step.optimizer._moments.values():
        size = moment.view(torch.int32) & 0x7FFFFFFF  # by its bits: a thread that flushes sees only zeros
        assert not ((size > 0) & (size < 0x00800000)).any()
    assert np.float32(1e-40) * np.float32(1.0) > 0.0, "this thread is as it was"


def test_state_is_a_copy():
    step = _step()
    tensors, _ = step.state()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    step.step(_batch())
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)


def test_same_seed_same_updates_and_no_global_random_state():
    state = torch.get_rng_state()
    losses = []
    for _ in range(2):
        step = _step(seed=4)
        losses.append([step.step(_batch(seed)).loss for seed in range(2)])
    assert losses[0] == losses[1]
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_differs_between_the_networks_and_between_updates():
    step = _step(learning_rate=0.0, network=dataclasses.replace(NETWORK, noisy_sigma=2.0), num_threads=1)
    drawn = []

    def watch(sample):
        return lambda *a, **k: drawn.append(sample(*a, **k)) or drawn[-1]

    for network in (step.online_network, step.target_network):
        network.sample_noise = watch(network.sample_noise)
    first, second = step.step(_batch()), step.step(_batch())
    assert first.loss != second.loss
    assert len(drawn) == 6
    factors = torch.stack([noise.output.inputs[0] for noise in drawn])
    assert len({tuple(row.tolist()) for row in factors}) == 6


def test_every_member_of_the_team_draws_the_same_noise():
    step = _step(num_threads=4, batch_size=32)
    for _ in range(2):
        draws = [step.sample_noise(member, 32).online.output.inputs for member in range(4)]
        assert all(torch.equal(draw, draws[0]) for draw in draws)


def _train(batches, *, ahead, copy_at=-1, **options):
    """Parameters and losses of updates on these batches, each told of the next one if `ahead`."""
    step, results = _step(seed=5, **options), []
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
    batches = [_batch(seed, size=16) for seed in range(4)]
    options = {"copy_at": copy_at, "num_threads": threads, "batch_size": 16, "learning_rate": 1e-2}
    plain, ahead = (_train(batches, ahead=flag, **options) for flag in (False, True))
    np.testing.assert_array_equal(plain[0], ahead[0])
    assert plain[1] == ahead[1]


def test_idle_members_do_begin_ahead():
    step, batches = _step(num_threads=2, batch_size=16), [_batch(seed, size=16) for seed in range(2)]
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
        if step._ahead.judged:
            return
        step._ahead = None
    pytest.fail("nothing was ever begun ahead")


def test_another_batch_than_the_one_expected_has_the_same_noise():
    first, second, third = (_batch(seed, size=16) for seed in range(3))
    plain, surprised = (_step(num_threads=2, batch_size=16) for _ in range(2))
    plain.step(first)
    surprised.step(first, lambda: third)
    assert plain.step(second).loss == surprised.step(second).loss


def test_a_state_taken_while_a_batch_waits_goes_on_as_if_nothing_had_been():
    first, second = (_batch(seed, size=16) for seed in range(2))
    step, other = (_step(num_threads=2, batch_size=16) for _ in range(2))
    step.step(first, lambda: second)
    other.step(first)  # and whatever it knows is replaced
    other.restore(*step.state())
    assert step.step(second).loss == other.step(second).loss
    np.testing.assert_array_equal(step.parameters(), other.parameters())


@pytest.mark.parametrize("values", VALUES)
def test_double_is_chosen_by_the_online_network(values):
    network = dataclasses.replace(NETWORK, noisy=False, values=values, v_min=-2.0, v_max=2.0)
    step, single = _step(network=network), _step(network=network, double=False)
    for each in (step, single):
        with torch.no_grad():
            each.target_network.output.linear.weight.neg_()
    batch = _batch(size=16, discount=np.ones(16, np.float32), reward=np.zeros(16, np.float32))
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
    step = _step()
    before = step.state()[0]
    result = step.step(_batch(reward=np.full(4, np.nan, np.float32)))
    assert np.isnan(result.loss)
    after = step.state()[0]
    assert all(torch.equal(before[n], after[n]) for n in before if "noise_generator" not in n)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_gradient_is_clipped_to_its_largest_norm(threads):
    options = {"num_threads": threads, "batch_size": 16}
    free, loose, tight = (_step(max_grad_norm=norm, **options) for norm in (0.0, 1e6, 0.01))
    results = [step.step(_batch(size=16)) for step in (free, loose, tight)]
    assert results[0].grad_norm == results[1].grad_norm == results[2].grad_norm > 0.1, "as it was before"
    np.testing.assert_array_equal(loose.parameters(), free.parameters())
    clipped = 0.01 / results[0].grad_norm
    for name, gradient in tight.gradients().items():
        torch.testing.assert_close(gradient, clipped * free.gradients()[name], rtol=1e-4, atol=1e-9)


def test_bfloat16_follows_float32():
    network = dataclasses.replace(NETWORK, noisy=False)
    exact, rounded = _step(network=network), _step(network=network, precision="bfloat16")
    a, b = exact.step(_batch(size=16)), rounded.step(_batch(size=16))
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
    step = _step(network=network, precision=precision, learning_rate=1e-3, loss=loss)
    batch = _batch(size=8, discount=np.zeros(8, np.float32))
    for _ in range(60):
        result = step.step(batch)
    with torch.no_grad():
        values = step.online_network(torch.from_numpy(batch.observation)).q_values.numpy()
    np.testing.assert_allclose(values[np.arange(8), batch.action], batch.reward, atol=0.35)
    assert np.isfinite(result.loss)


def test_parameters_load_into_an_actors_network():
    step = _step()
    step.step(_batch())
    copy = build_network(NETWORK, 3, observation_shape=SHAPE, seed=8)
    load(copy, step.parameters())
    observation = torch.from_numpy(_batch().observation)
    with torch.no_grad():
        torch.testing.assert_close(copy(observation).q_values, step.online_network(observation).q_values)


def test_precision_flag():
    assert choose_dtype("float32", torch.device("cpu")) == torch.float32
    assert choose_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert choose_dtype("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)
