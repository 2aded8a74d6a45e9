"""Balancing losses: by hand, against a slow version, and with gradients that balance."""

import math

import pytest
import torch

from models.mixtures.balancing import entropy_loss, importance_loss, load_loss


def _probabilities(seed=0, batch=3, tokens=7, experts=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, tokens, experts, generator=generator).softmax(dim=2)


def _chosen(probabilities, k=1):
    order = probabilities.sort(dim=2, descending=True, stable=True).indices[:, :, :k]
    return (order.unsqueeze(3) == torch.arange(probabilities.shape[2])).any(dim=2)


def test_importance_by_hand():
    probabilities = torch.tensor([[[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.5, 0.5]]])
    # Sums (1, 1) and (1.5, 0.5): mean 1, deviation 0.5.
    torch.testing.assert_close(importance_loss(probabilities), torch.tensor([0.0, 0.25]))


def test_entropy_by_hand():
    chosen = torch.tensor([[[1, 0], [0, 1]], [[1, 0], [1, 0]], [[1, 0], [1, 0]]], dtype=torch.bool)
    loss = entropy_loss(torch.full((3, 2, 2), 0.5), chosen)
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0, 1.0]), atol=1e-4, rtol=0)
    three = torch.tensor([[[1, 0]] * 3 + [[0, 1]]], dtype=torch.bool)
    expected = 1 + (0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    assert entropy_loss(torch.full((1, 4, 2), 0.5), three).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("k", [1, 2])
def test_load_against_one_number_at_a_time(k):
    generator = torch.Generator().manual_seed(3)
    logits, draws = (torch.randn(2, 5, 3, generator=generator) for _ in range(2))
    std = 0.4
    actual = load_loss(logits, logits + std * draws, std, k)
    for sample in range(2):
        chances = []
        for expert in range(3):
            wins = []
            for token in range(5):
                noisy = [
                    logits[sample, token, e].item() + std * draws[sample, token, e].item() for e in range(3)
                ]
                needed = (sorted(noisy)[-k] - logits[sample, token, expert].item()) / std
                wins.append(0.5 * math.erfc(needed / math.sqrt(2)))
            chances.append(sum(wins) / 5)
        mean = sum(chances) / 3
        variance = sum((chance - mean) ** 2 for chance in chances) / 3
        assert actual[sample].item() == pytest.approx(variance / mean**2, rel=1e-4)


@pytest.mark.parametrize("experts", [1, 4])
def test_gradients_are_finite_where_experts_are_used_evenly(experts):
    logits = torch.zeros(2, 8, experts, requires_grad=True)
    probabilities = logits.softmax(dim=2)
    chosen = torch.eye(experts).repeat(8 // experts, 1).expand(2, -1, -1).bool()
    loss = importance_loss(probabilities) + entropy_loss(probabilities, chosen)
    loss = loss + load_loss(logits, logits, 1.0, 1)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(loss, torch.zeros(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["importance", "load", "entropy"])
def test_descending_evens_out_the_choices(name):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(4, 32, 6, generator=generator)
    router = (0.3 * torch.randn(6, 4, generator=generator)).requires_grad_()
    offset = torch.tensor([3.0, 0.0, 0.0, 0.0], requires_grad=True)
    optimizer = torch.optim.Adam([router, offset], lr=0.05)

    def loss():
        logits = tokens @ router + offset
        probabilities = logits.softmax(dim=2)
        if name == "importance":
            return importance_loss(probabilities).mean()
        if name == "load":
            return load_loss(
                logits, logits + 0.25 * torch.randn(logits.shape, generator=generator), 0.25, 1
            ).mean()
        return entropy_loss(probabilities, _chosen(probabilities)).mean()

    def busiest():
        return _chosen((tokens @ router + offset).softmax(dim=2)).float().mean(dim=(0, 1)).max().item()

    assert busiest() > 0.9
    for _ in range(150):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert busiest() < 0.5
