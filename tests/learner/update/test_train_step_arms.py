"""TrainStep with every arm: it trains and balances; threads change nothing; noise of its three passes."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from learner.config import LearnerConfig
from learner.update.train_step import TrainStep
from models.config import NetworkConfig
from replay.types import Batch
from tests.helpers.models.arms import AGENTS, ARMS

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = (2, 44, 44)
BALANCED = {"head": "top_k_moe", "router_noise": 1.0, "noisy": True}
EVERY_LOSS = {"importance_loss_weight": 1.0, "load_loss_weight": 1.0, "entropy_loss_weight": 1.0}


def _step(precision="float32", threads=1, batch_size=6, learning_rate=6.25e-5, double=True, **network):
    config = NetworkConfig(
        **{"encoder": "nature", "padding": "valid", "expert_hidden_units": 16, "num_atoms": 11, **network}
    )
    learner = LearnerConfig(
        precision=precision,
        cpus=threads,
        batch_size=batch_size,
        learning_rate=learning_rate,
        double=double,
    )
    return TrainStep(config, learner, num_actions=3, observation_shape=SHAPE, seed=1, device="cpu")


def _batch(size=6, seed=0):
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


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains(arm, agent):
    for precision in ("float32", "bfloat16"):
        step = _step(precision, **{"dense_hidden_units": 16, **ARMS[arm], **AGENTS[agent]})
        before = step.parameters()
        result = step.step(_batch())
        assert np.isfinite(result.loss)
        assert result.grad_norm > 0
        assert (step.parameters() != before).mean() > 0.5


@pytest.mark.parametrize("head", ["soft_moe", "top_k_moe", "dense", "pooled"])
@pytest.mark.parametrize("dueling", [True, False])
@pytest.mark.parametrize("noisy", [True, False])
def test_quantiles_are_learned_with_every_head(head, dueling, noisy):
    network = {"head": head, "dueling": dueling, "noisy": noisy, "values": "quantile", "num_quantiles": 9}
    for double in (True, False):
        for precision in ("float32", "bfloat16"):
            step = _step(precision, dense_hidden_units=16, double=double, **network)
            before = step.parameters()
            result = step.step(_batch())
            assert np.isfinite(result.loss)
            assert result.priorities.shape == (6,)
            assert (result.priorities > 0).all()
            assert (step.parameters() != before).mean() > 0.5


def test_balancing_losses_are_added_but_are_no_priority():
    plain, balanced = _step(**BALANCED), _step(**BALANCED, **EVERY_LOSS)
    first, second = plain.step(_batch()), balanced.step(_batch())
    np.testing.assert_array_equal(first.priorities, second.priorities)
    noise = _step(**BALANCED, **EVERY_LOSS).noise_of(0, 6).online
    with torch.no_grad():
        fresh = _step(**BALANCED, **EVERY_LOSS).online_network
        losses = fresh(torch.from_numpy(_batch().observation), noise).moe.auxiliary_loss
    assert second.loss - first.loss == pytest.approx(losses.mean().item(), rel=1e-4)
    router = [step.gradients()["head.moe.router"] for step in (plain, balanced)]
    assert (router[1] - router[0]).abs().max() > 1e-3


@pytest.mark.parametrize("size", [1, 5, 24])
def test_threads_share_out_losses_and_routing_noise(size):
    results, steps = [], []
    for threads in (1, 3):
        step = _step(threads=threads, batch_size=24, **BALANCED, **EVERY_LOSS)
        results.append([step.step(_batch(rows)) for rows in (size, 24)][-1])
        steps.append(step)
    assert len(steps[1]._buffers) == 3
    np.testing.assert_allclose(results[1].priorities, results[0].priorities, rtol=1e-4)
    assert results[1].loss == pytest.approx(results[0].loss, rel=1e-5)
    assert results[1].grad_norm == pytest.approx(results[0].grad_norm, rel=1e-4)
    np.testing.assert_allclose(steps[1].parameters(), steps[0].parameters(), atol=2e-6)


def test_the_passes_of_an_update_have_independent_noise():
    step = _step(**BALANCED)
    drawn = [noise for _ in range(2) for noise in (*step.noise_of(0, 6)[:2], step.target_noise_of(6))]
    draws = [torch.cat([noise.router.flatten(), *(f.flatten() for f in noise.hidden)]) for noise in drawn]
    draws = torch.stack(
        [torch.cat([a, n.output.inputs.flatten()]) for a, n in zip(draws, drawn, strict=True)]
    )
    correlation = torch.corrcoef(draws) - torch.eye(6)
    assert correlation.abs().max() < 0.2


@pytest.mark.parametrize("part", ["online", "chooser", "target"])
def test_each_pass_uses_its_own_noise(part):
    step, batch = _step(**BALANCED, noisy_sigma=3.0), _batch()
    data, noise = (
        step.to_device(batch),
        step.noise_of(0, 6)._replace(target=step.target_noise_of(6)),
    )
    quiet = noise._replace(**{part: None})

    def outcome(draw):
        target = step.target(data, draw)
        return target, step.online_network(data.observation, draw.online).logits

    (target, logits), (other_target, other_logits) = outcome(noise), outcome(quiet)
    assert torch.equal(logits, other_logits) == (part != "online")
    if part != "chooser":  # Which changes the target only where it chooses another action.
        assert torch.equal(target, other_target) == (part == "online")


def half_used(config, num_tokens, width):
    head = nn.Sequential(nn.Flatten(), nn.Linear(num_tokens * width, 8))
    head.spare = nn.Parameter(torch.ones(3))
    return head


def test_a_head_of_ones_own_may_have_parameters_that_do_nothing():
    step = _step(head=f"{__name__}:half_used")
    step.step(_batch())
    assert step.gradients()["head.inner.spare"].tolist() == [0.0, 0.0, 0.0]
    assert step.gradients()["head.inner.1.weight"].any()


def test_a_router_learns_to_balance():
    network = {"head": "top_k_moe", "importance_loss_weight": 10.0, "noisy": False}
    step = _step(learning_rate=3e-3, batch_size=16, **network)
    batch = _batch(16)

    def imbalance():
        with torch.no_grad():
            moe = step.online_network(torch.from_numpy(batch.observation)).moe
        shares = moe.router_probabilities.mean(dim=(0, 1))
        return shares.std().item() / shares.mean().item()

    before = imbalance()
    for _ in range(25):
        step.step(dataclasses.replace(batch, reward=np.zeros(16, np.float32)))
    assert imbalance() < 0.3 * before
