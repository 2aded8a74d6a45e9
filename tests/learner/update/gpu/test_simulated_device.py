"""A whole update on a device without numbers: none is read, all is there, and launches are counted."""

import dataclasses

import pytest
import torch

from learner.config import LearnerConfig
from learner.update.gpu.graphed import FlatBatch
from learner.update.update import Update
from models.config import NetworkConfig
from models.q_network import build_network
from tests.helpers.learner.simulated_device import (
    Waited,
    counting,
    generator_on,
    is_simulated,
    move,
    simulated_device,
)

SHAPE = (4, 84, 84)
RAINBOW = {"values": "c51", "noisy": True, "dueling": True, "noise_per": "row"}
IMPALA = {"encoder": "impala", "padding": "same"}
NATURE = {"encoder": "nature", "padding": "same"}
PLAIN = {"noisy": False, "dueling": False}
ARMS = {
    # name: (network, learner, launches at most)
    "paper: soft moe, rainbow": ({**IMPALA, **RAINBOW, "num_experts": 8}, {"double": True}, 353),
    "paper: soft moe, dqn": ({**IMPALA, **PLAIN, "values": "scalar"}, {"loss": "squared"}, 266),
    "nature, noise a batch": ({**NATURE, **RAINBOW, "noise_per": "batch"}, {"double": True}, 231),
    "dense, quantiles": ({**NATURE, **PLAIN, "head": "dense", "values": "quantile"}, {}, 169),
    "dense, rainbow": ({**NATURE, **RAINBOW, "head": "dense"}, {"double": True}, 190),
    "top 1, balanced": (
        {
            **NATURE,
            **PLAIN,
            "head": "top_k_moe",
            "router_noise": 1.0,
            "importance_loss_weight": 0.1,
            "load_loss_weight": 0.1,
            "entropy_loss_weight": 0.1,
        },
        {},
        389,
    ),
    "expert choice": ({**NATURE, **PLAIN, "head": "expert_choice"}, {}, 182),
    "pooled": ({**NATURE, **PLAIN, "head": "pooled"}, {"priority": "absolute_td"}, 122),
    "normalised, residual": (
        {**NATURE, **PLAIN, "normalize": True, "residual": True, "token_norm": True},
        {"priority": "kl", "max_grad_norm": 10.0},
        232,
    ),
    "phi fixed": ({**NATURE, **PLAIN, "phi": "fixed"}, {}, 166),
    "phi redrawn, tokens shuffled": ({**NATURE, **PLAIN, "phi": "redrawn", "shuffle": "tokens"}, {}, 182),
    "one token, slim, centered": (
        {**NATURE, **PLAIN, "tokens": "per_sample", "slim_experts": True, "centered_kernels": True},
        {},
        191,
    ),
}


def launches(network, learner, spoil=lambda update: None):
    """Operators that one update launches, after it was built."""
    built = build_network(NetworkConfig(**network), 6, observation_shape=SHAPE, seed=0)
    with simulated_device() as (device, mode), mode:
        move(built, device)
        update = Update(built, LearnerConfig(batch_size=32, **learner), torch.float32, seed=0)
        spoil(update)
        data = FlatBatch(32, SHAPE, device).columns
        with counting() as counts:
            packed = update.update(data, generator_on(device), generator_on(device))
        assert is_simulated(packed)
        assert packed.shape == (36,)
    return sum(counts.values())


@pytest.mark.parametrize("arm", ARMS)
def test_an_arms_update_waits_for_nothing_and_launches_no_more_than_before(arm):
    network, learner, most = ARMS[arm]
    assert launches(network, learner) <= most


def wrap(update, spoil):
    judge = update.judge
    update.judge = lambda parts, norms: spoil(judge(parts, norms))


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda packed: packed * packed[0].item(), "_local_scalar_dense"),
        (lambda packed: packed.cpu(), "a copy to the host"),
        (lambda packed: packed + torch.ones(36), "same device"),
        (lambda packed: packed[packed > 0], "nonzero"),
    ],
)
def test_reading_a_number_or_leaving_one_on_the_cpu_is_noticed(spoil, error):
    with pytest.raises((RuntimeError, Waited), match=error):
        launches({**NATURE, **PLAIN, "head": "pooled"}, {}, lambda update: wrap(update, spoil))


def test_arms_are_those_of_the_configuration():
    """Whoever adds a head, values or tokens sees here that an arm is missing."""
    used = {(field, value) for network, _, _ in ARMS.values() for field, value in network.items()}
    defaults = dataclasses.asdict(NetworkConfig())
    used |= {(field, value) for field, value in defaults.items() if isinstance(value, (str, bool))}
    for field, values in {
        "head": ("soft_moe", "top_k_moe", "expert_choice", "dense", "pooled"),
        "values": ("scalar", "c51", "quantile"),
        "phi": ("trained", "fixed", "redrawn"),
        "noise_per": ("batch", "row"),
    }.items():
        assert {(field, value) for value in values} <= used
