"""What an item's priority becomes when it was drawn."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from deploy.run.checks import check
from deploy.run.config import ConfigError, with_values
from deploy.run.presets import PRESETS
from learner.update.losses import c51_loss, quantile_loss
from learner.update.priorities import sample_priorities
from models.q_network import NetworkOutput
from replay.types import Signature
from tests.helpers.learner.train_steps import NETWORK, SHAPE, make_batch, make_step

SUPPORT = torch.linspace(-2.0, 2.0, 5)


def of_logits(logits: torch.Tensor) -> NetworkOutput:
    return NetworkOutput((logits.softmax(dim=2) * SUPPORT).sum(dim=2), logits, logits, None)


def test_what_is_learned_has_no_divergence_though_it_has_a_cross_entropy() -> None:
    target = torch.tensor([[0.2, 0.2, 0.2, 0.2, 0.2], [0.0, 1.0, 0.0, 0.0, 0.0]])
    output, action = (
        of_logits(torch.stack([target, target.flip(1)], dim=1).clamp(min=1e-12).log()),
        torch.tensor([0, 0]),
    )
    losses = c51_loss(output.logits, action, target)
    of_kind = {
        kind: sample_priorities(kind, output, action, target, losses, SUPPORT)
        for kind in ("loss", "kl", "absolute_td")
    }
    torch.testing.assert_close(of_kind["loss"], torch.tensor([math.log(5), 0.0]), atol=1e-6, rtol=1e-6)
    assert of_kind["kl"].abs().max() < 1e-6
    assert of_kind["absolute_td"].abs().max() < 1e-6
    other = torch.tensor([0, 1])  # the second row's other action is wrong by 2
    losses = c51_loss(output.logits, other, target)
    errors = sample_priorities("absolute_td", output, other, target, losses, SUPPORT)
    torch.testing.assert_close(errors, torch.tensor([0.0, 2.0]), atol=1e-5, rtol=1e-5)
    divergence = sample_priorities("kl", output, other, target, losses, SUPPORT)
    torch.testing.assert_close(divergence, losses - torch.tensor([math.log(5), 0.0]), atol=1e-5, rtol=1e-5)


def test_of_quantiles_and_scalars_the_error_is_that_of_the_mean() -> None:
    quantiles = torch.tensor([[[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]]])
    output, action = NetworkOutput(quantiles.mean(dim=2), None, quantiles, None, quantiles), torch.tensor([0])
    target = torch.tensor([[3.0, 3.0, 6.0]])
    losses = quantile_loss(quantiles, action, target)
    assert sample_priorities("absolute_td", output, action, target, losses, SUPPORT).tolist() == [3.0]
    scalar = NetworkOutput(torch.tensor([[1.0, 2.0]]), None, quantiles, None)
    error = sample_priorities("absolute_td", scalar, torch.tensor([1]), torch.tensor([-1.5]), losses, SUPPORT)
    assert error.tolist() == [3.5]


@pytest.mark.parametrize("kind", ["loss", "kl", "absolute_td"])
def test_an_update_gives_these_and_minimises_what_it_did(kind: str) -> None:
    plain, step = make_step(cpus=1), make_step(cpus=1, priority=kind)
    results = plain.step(make_batch()), step.step(make_batch())
    assert results[0].loss == results[1].loss
    np.testing.assert_array_equal(plain.parameters(), step.parameters())
    assert (kind == "loss") == np.array_equal(results[0].priorities, results[1].priorities)
    assert (results[1].priorities >= 0).all()


def test_what_actors_send_with_an_item_is_what_its_first_draw_makes_of_it() -> None:
    """By the same network on both sides: then new items are drawn as often as others, not 20 times less.

    (With a discount that leaves the target's mean inside of the support.)
    """
    from replay.config import ReturnRule
    from replay.segments.builder import SegmentBuilder

    network = dataclasses.replace(NETWORK, noisy=False, v_min=-30.0, v_max=30.0)
    step = make_step(network=network, priority="absolute_td", double=False, cpus=1)
    signature = Signature(SHAPE[1:], SHAPE[0], 1, 3)
    builder = SegmentBuilder(
        signature, actor=0, incarnation=0, env_slot=0, num_slots=1, segment_steps=16,
        next_seq=lambda: 0, priority_rule=ReturnRule(n_step=1, gamma=0.9, reward_clip=1.0),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (17 + SHAPE[0], *SHAPE[1:]), dtype=np.uint8)
    frames[: SHAPE[0] - 1] = 0  # before the episode's first
    stacks = np.stack([frames[i : i + SHAPE[0]] for i in range(17)])
    with torch.no_grad():
        values = step.online_network(torch.from_numpy(stacks)).q_values.numpy()
    actions, rewards = rng.integers(0, 3, 16), rng.choice([-1.0, 0.0, 1.0], 16)
    builder.reset(stacks[0, -1])
    segments = []
    for t in range(16):
        segments += builder.add(
            int(actions[t]), float(rewards[t]), stacks[t + 1, -1], False, False,
            q_taken=float(values[t, actions[t]]), q_max=float(values[t].max()),
        )  # fmt: skip
    segments += builder.drain(float(values[16].max()))
    sent = np.concatenate([segment.priorities for segment in segments])
    batch = make_batch(
        size=16,
        observation=stacks[:16],
        next_observation=stacks[1:],
        action=actions,
        reward=rewards.astype(np.float32),
        discount=np.full(16, 0.9, np.float32),
    )
    np.testing.assert_allclose(step.step(batch).priorities, sent, rtol=1e-3, atol=1e-3)
    assert sent.mean() > 0.1


def test_a_divergence_of_what_is_no_distribution_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^--learner.priority 'kl': is for --network.values c51 alone"):
        check(with_values(PRESETS["dopamine-qr-dqn"], learner__priority="kl"))
