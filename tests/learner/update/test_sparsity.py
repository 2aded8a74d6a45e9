"""Weights held at zero: their number, both networks, both precisions, noise, resume, and the schedule."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.policy import Policy
from learner.checkpoint import CheckpointStore
from learner.config import LearnerConfig
from learner.update.train_step import TrainStep
from models.arrays import Weights
from models.config import NetworkConfig
from models.sparsity import kernels, layer_sparsities
from replay.types import Batch

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = (2, 44, 44)
NETWORK = NetworkConfig(encoder="nature", padding="valid", expert_hidden_units=16, num_atoms=11, sparsity=0.9)
PRUNED = dataclasses.replace(NETWORK, sparsify="pruning")


def _step(network: NetworkConfig = NETWORK, seed: int = 1, **changes) -> TrainStep:
    config = {"precision": "float32", "cpus": 1, "batch_size": 6, "learning_rate": 1e-3} | changes
    return TrainStep(
        network, LearnerConfig(**config), num_actions=3, observation_shape=SHAPE, seed=seed, device="cpu"
    )


def _batch(seed: int = 0, size: int = 6) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(
        observation=rng.integers(0, 256, (size, *SHAPE), dtype=np.uint8),
        action=rng.integers(0, 3, size),
        reward=rng.normal(size=size).astype(np.float32),
        discount=np.full(size, 0.97, np.float32),
        next_observation=rng.integers(0, 256, (size, *SHAPE), dtype=np.uint8),
        probability=np.full(size, 0.1),
        importance_weight=rng.uniform(0.1, 1, size).astype(np.float32),
        leaf=np.arange(size),
        generation=np.zeros(size, np.int64),
        weights_version=np.zeros(size, np.int64),
    )


def _zeros(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k.name: k.rows(k.parameter.detach()) == 0 for k in kernels(network)}


def _expected(network: NetworkConfig, step: TrainStep, share: float = 1.0) -> dict[str, list[int]]:
    """Zeros of each layer of each kernel."""
    found = kernels(step.online_network)
    layers = [kernel.shape for kernel in found for _ in range(kernel.num_layers)]
    shares = iter(layer_sparsities(layers, network.sparsity, network.sparsity_distribution))
    return {
        k.name: [
            round(share * next(shares) * k.parameter.numel() / k.num_layers) for _ in range(k.num_layers)
        ]
        for k in found
    }


def _counts(network: torch.nn.Module) -> dict[str, list[int]]:
    return {name: zeros.sum(dim=1).tolist() for name, zeros in _zeros(network).items()}


@pytest.mark.parametrize("distribution", ["erk", "uniform"])
@pytest.mark.parametrize("head", ["soft_moe", "top_k_moe", "expert_choice", "dense", "pooled"])
def test_a_static_mask_has_its_sparsity_from_the_start_to_the_end(head: str, distribution: str) -> None:
    network = dataclasses.replace(
        NETWORK, head=head, dense_hidden_units=16, sparsity_distribution=distribution
    )
    step = _step(network)
    expected, before = _expected(network, step), _zeros(step.online_network)
    total = sum(kernel.parameter.numel() for kernel in kernels(step.online_network))
    zeros = sum(map(sum, expected.values()))
    assert zeros == pytest.approx(0.9 * total, abs=sum(map(len, expected.values())))
    for _ in range(3):
        assert _counts(step.online_network) == _counts(step.target_network) == expected
        step.step(_batch())
        step.sparsity.prune(1.0)  # That is for pruning.
        step.copy_target()
    after = _zeros(step.online_network)
    assert all(torch.equal(mask, after[name]) for name, mask in before.items())
    sigma = dict(step.online_network.named_parameters())["output.linear.weight_sigma"]
    assert torch.equal((sigma == 0).view(1, -1), after["output.linear.weight"]), "its noise goes with it"


def test_masks_differ_between_seeds_and_experts() -> None:
    first, again, other = (_zeros(_step(seed=seed).online_network) for seed in (1, 1, 2))
    name = "head.moe.experts.weight_in"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name][0], first[name][1])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_gradient_is_that_of_a_network_of_masked_weights(precision: str, threads: int) -> None:
    """The slow version: weights times a mask, by torch's own parametrization, differentiated as they are."""
    step = _step(precision=precision, cpus=threads, batch_size=24)
    zeros = {kernel.name: kernel.parameter.detach() == 0 for kernel in kernels(step.online_network)}
    batch = _batch(size=24)
    slow = _step(dataclasses.replace(NETWORK, sparsity=0.0), precision=precision, batch_size=24)
    slow.restore(step.state()[0])
    slow.step(batch)
    result = step.step(batch)
    squares = 0.0
    for name, gradient in step.gradients().items():
        dense = slow.gradients()[name]
        mask = zeros.get(name.removesuffix("_sigma"))
        expected = dense if mask is None else dense.masked_fill(mask, 0.0)
        tolerance = 1e-6 if precision == "float32" else 0.05 * dense.abs().max().item()
        torch.testing.assert_close(gradient, expected, atol=tolerance + 1e-6, rtol=1e-3)
        assert mask is None or (gradient[mask] == 0).all()
        squares += gradient.square().sum().item()
    assert result.grad_norm == pytest.approx(squares**0.5, rel=1e-4), "the norm is without them"


def test_the_copy_that_computes_and_the_actors_have_the_zeros() -> None:
    step = _step(PRUNED, precision="bfloat16")
    step.step(_batch())
    step.sparsity.prune(1.0)
    assert _counts(step._online.network) == _expected(PRUNED, step)
    policy = Policy(PRUNED, observation_shape=SHAPE, num_actions=3, precision="float32", seed=9)
    policy.load(Weights(0, step.parameters(), 0))
    assert _counts(policy.network) == _expected(PRUNED, step)


def test_pruning_takes_the_smallest_weights_and_they_stay_zero() -> None:
    step = _step(PRUNED)
    assert not any(sum(counts) for counts in _counts(step.online_network).values())
    masks: list[dict[str, torch.Tensor]] = []
    for share in (0.0, 0.3, 0.3, 0.9, 0.5, 1.0):
        before = {k.name: k.rows(k.parameter.detach().clone()) for k in kernels(step.online_network)}
        step.sparsity.prune(share)
        reached = max(share, 0.9) if len(masks) > 3 else share
        expected = _expected(PRUNED, step, reached)
        assert _counts(step.online_network) == expected
        masks.append(_zeros(step.online_network))
        for name, counts in expected.items():
            for row, mask, count in zip(before[name], masks[-1][name], counts, strict=True):
                slow = np.argsort(np.abs(row.numpy()), kind="stable")[:count]
                assert set(slow) == set(np.flatnonzero(mask.numpy()))
        step.step(_batch(len(masks)))
        assert _counts(step.online_network) == expected
    for earlier, later in itertools.pairwise(masks):
        assert all((later[name] | ~mask).all() for name, mask in earlier.items())


def test_pruned_weights_do_not_move_by_their_former_momentum() -> None:
    step = _step(PRUNED)
    for seed in range(3):
        step.step(_batch(seed))
    step.sparsity.prune(1.0)
    zeros = _zeros(step.online_network)
    for moment in ("exp_avg", "exp_avg_sq"):
        state = step.optimizer.state(step.online_network)
        for name, mask in zeros.items():
            assert (state[f"{moment}/{name}"].reshape(mask.shape)[mask] == 0).all()
    assert sum(counts.sum() for counts in zeros.values()) > 0


def test_the_target_network_is_pruned_by_the_next_copy() -> None:
    step = _step(PRUNED)
    step.sparsity.prune(1.0)
    assert not any(sum(counts) for counts in _counts(step.target_network).values())
    step.copy_target()
    assert _counts(step.target_network) == _counts(step.online_network)


CONTROLS = {
    "static": {"sparsity": 0.8},
    "pruning": {"sparsity": 0.8, "sparsify": "pruning"},
    "fixed phi": {"phi": "fixed"},
    "redrawn phi": {"phi": "redrawn"},
    "redrawn phi, by row": {"phi": "redrawn", "noise_per": "row"},
    "shuffled tokens": {"shuffle": "tokens"},
    "shuffled tokens, no noise": {"shuffle": "tokens", "noisy": False},
    "expert choice": {"head": "expert_choice"},
}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_train_step_resumed_from_a_checkpoint_is_bit_identical(control: str, tmp_path: Path) -> None:
    network = dataclasses.replace(NETWORK, **({"sparsity": 0.0} | CONTROLS[control]))
    whole, first = _step(network, precision="bfloat16"), _step(network, precision="bfloat16")
    batches = [_batch(seed) for seed in range(7)]

    def work(step: TrainStep, numbers: range) -> None:
        for number in numbers:
            step.step(batches[number], meanwhile=lambda: batches[number + 1])  # noqa: B023
            step.sparsity.prune((number + 1) / 7)
            if number % 2:
                step.copy_target()

    work(whole, range(6))
    work(first, range(3))
    tensors, document = first.state()
    assert bool([name for name in tensors if name.startswith("zeros/")]) == (network.sparsity > 0)
    second = _step(network, seed=8, precision="bfloat16")
    store = CheckpointStore(tmp_path)
    store.save(3, tensors, {"train_step": document})
    checkpoint = store.load_newest()
    assert checkpoint is not None
    second.restore(checkpoint.tensors, checkpoint.document["train_step"])
    work(second, range(3, 6))
    ours, theirs = second.state()[0], whole.state()[0]
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    assert not np.array_equal(first.parameters(), whole.parameters())


def test_a_fixed_phi_is_left_exactly_as_it_was() -> None:
    network = dataclasses.replace(NETWORK, sparsity=0.0, phi="fixed")
    step = _step(network)
    before = {name: p.detach().clone() for name, p in step.online_network.named_parameters()}
    for seed in range(3):
        step.step(_batch(seed))
    after = dict(step.online_network.named_parameters())
    assert [name for name, p in before.items() if torch.equal(p, after[name])] == ["head.moe.phi"]


@pytest.mark.parametrize(
    "changes", [{"phi": "redrawn"}, {"shuffle": "tokens"}], ids=["redrawn phi", "shuffled tokens"]
)
def test_every_pass_and_row_of_an_update_draws_anew(changes: dict) -> None:
    # 36 tokens have orders enough; the noise of the layers is off.
    step = _step(dataclasses.replace(NETWORK, sparsity=0.0, noisy=False, padding="same", **changes))
    online, chooser, _ = step.noise_of(0, 6)
    draws = [online, chooser, step.target_noise_of(6), step.noise_of(0, 6).online]
    drawn = [row for noise in draws for row in (noise.order if noise.phi is None else noise.phi)]
    assert len({tuple(row.flatten().tolist()) for row in drawn}) == 4 * 6


def test_the_schedule_is_the_cubic_of_zhu_and_gupta() -> None:
    config = LearnerConfig(pruning_start=0.2, pruning_end=0.8)
    shares = [config.pruned_at(progress) for progress in (0.0, 0.2, 0.35, 0.5, 0.8, 1.3)]
    assert shares == pytest.approx([0.0, 0.0, 1 - 0.75**3, 1 - 0.5**3, 1.0, 1.0])
