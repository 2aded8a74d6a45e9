"""Experts: slots by capacity, initial values, and no work that is launched per expert."""

import math
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.config import NetworkConfig
from models.mixtures.experts import Experts, slots_per_expert
from models.q_network import build_network

SLOTS = [
    (121, 4, 1.0, 31),
    (121, 8, 1.0, 16),
    (49, 4, 1.0, 13),
    (1, 4, 1.0, 1),
    (121, 4, 2.0, 61),
    (121, 4, 0.5, 16),
    (9, 16, 0.01, 1),
    (8, 2, 4.0, 16),
]


@pytest.mark.parametrize(("tokens", "experts", "factor", "slots"), SLOTS)
def test_slots_per_expert(tokens, experts, factor, slots):
    assert slots_per_expert(tokens, experts, factor) == slots


def test_initial_values():
    experts = Experts(4, 64, 512, torch.Generator().manual_seed(0))
    bound = math.sqrt(6 / (64 + 512))
    for weight in (experts.weight_in, experts.weight_out):
        assert 0.99 * bound < weight.abs().max() <= bound
        assert weight.mean().abs() < 0.01 * bound
        assert weight.var().item() == pytest.approx(bound**2 / 3, rel=0.05)
    assert not torch.equal(experts.weight_in[0], experts.weight_in[1])
    assert not experts.bias_in.any()
    assert not experts.bias_out.any()


def test_initial_values_of_noisy_experts():
    experts = Experts(4, 64, 512, torch.Generator().manual_seed(0), sigma=0.1)
    for mean in (experts.weight_in, experts.bias_in):
        assert 0.98 / 8 < mean.abs().max() <= 1 / 8
        assert mean.var().item() == pytest.approx(1 / 64 / 3, rel=0.1)
    for sigma in (experts.weight_in_sigma, experts.bias_in_sigma):
        torch.testing.assert_close(sigma, torch.full_like(sigma, 0.1 / 8))
    assert not experts.bias_out.any()


class _CountOperations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("options", [
    {"head": "soft_moe"},
    {"head": "soft_moe", "normalize": True, "tokens": "per_patch", "patch_size": 1},
    {"head": "top_k_moe", "router_noise": 1.0, "importance_loss_weight": 1.0, "load_loss_weight": 1.0},
    {"head": "top_k_moe", "capacity_factor": 2.0, "entropy_loss_weight": 1.0},
])  # fmt: skip
def test_nothing_is_launched_per_expert(options, noisy):
    counts = []
    for num_experts in (2, 16):
        config = NetworkConfig(
            encoder="nature",
            padding="valid",
            num_experts=num_experts,
            expert_hidden_units=8,
            noisy=noisy,
            **options,
        )
        network = build_network(config, 3, observation_shape=(2, 84, 84), seed=0)
        observation = torch.zeros(2, 2, 84, 84, dtype=torch.uint8)
        noise = network.sample_noise(torch.Generator().manual_seed(0), routed_rows=2)
        with _CountOperations() as mode:
            output = network(observation, noise)
            loss = output.logits.square().sum()
            if output.moe.auxiliary_loss is not None:
                loss = loss + output.moe.auxiliary_loss.sum()
            loss.backward()
        counts.append(mode.counts)
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) > 50
