"""Soft MoE against a float64 loop over experts, forward and backward, and its initial values."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.mixtures.soft_moe import SoftMoE
from models.values.noisy import LayerNoise, Noise
from tests.helpers.models.mixtures import assert_same_gradients, expert_output, randomise


def _layer(num_tokens=10, width=6, num_experts=3, hidden=5, sigma=None, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    layer = SoftMoE(
        num_tokens,
        width,
        num_experts=num_experts,
        hidden=hidden,
        generator=generator,
        sigma=sigma,
        **options,
    )
    return randomise(layer, generator)


def _slow(layer, tokens, noise=None):
    """Compute one sample, one expert and one slot after the other."""
    phi = layer.phi.view(-1, layer.num_experts, layer.num_slots)
    if layer.scale is not None:
        phi = layer.scale * phi / (phi.square().sum(dim=0, keepdim=True).sqrt() + 1e-6)
    rows = []
    for sample, x in enumerate(tokens):
        directions = x if layer.scale is None else x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-6)
        exponentials = torch.einsum("td,des->tes", directions, phi).exp()
        mixed = torch.zeros_like(x)
        for e in range(layer.num_experts):
            for s in range(layer.num_slots):
                dispatch = exponentials[:, e, s] / exponentials[:, e, s].sum()
                combine = exponentials[:, e, s] / exponentials.sum(dim=(1, 2))
                mixed = mixed + combine[:, None] * expert_output(layer, e, dispatch @ x, noise, sample)
        rows.append(mixed)
    return torch.stack(rows)


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 4),
    num_tokens=st.integers(1, 9),
    num_experts=st.integers(1, 5),
    capacity_factor=st.sampled_from([0.3, 1.0, 1.7]),
    normalize=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_forward_and_backward_are_those_of_the_loop(
    batch, num_tokens, num_experts, capacity_factor, normalize, seed
):
    options = {"num_tokens": num_tokens, "num_experts": num_experts, "capacity_factor": capacity_factor}
    fast, exact = (_layer(**options, normalize=normalize, seed=seed) for _ in range(2))
    tokens = torch.randn(batch, num_tokens, 6, generator=torch.Generator().manual_seed(seed))
    assert_same_gradients(fast, exact, tokens, lambda layer, x: layer(x).tokens, _slow)


@pytest.mark.parametrize("rows", [1, 4])
def test_noise_of_one_draw_and_of_a_draw_per_row(rows):
    generator = torch.Generator().manual_seed(9)
    tokens = torch.randn(4, 10, 6, generator=generator)
    draw = LayerNoise(torch.randn(rows, 6, generator=generator), torch.randn(rows, 5, generator=generator))
    noise = Noise(draw, None)
    assert_same_gradients(
        _layer(sigma=0.7),
        _layer(sigma=0.7),
        tokens,
        lambda layer, x: layer(x, noise).tokens,
        lambda layer, x: _slow(layer, x, noise),
    )


def test_weights_sum_to_one_over_tokens_and_over_slots():
    result = _layer()(torch.randn(2, 10, 6))
    torch.testing.assert_close(result.dispatch_weights.sum(dim=1), torch.ones(2, 3, 4))
    torch.testing.assert_close(result.combine_weights.sum(dim=(2, 3)), torch.ones(2, 10))
    torch.testing.assert_close(result.router_probabilities, result.combine_weights.mean(dim=3))
    assert result.hidden.shape == (2, 3, 4, 5)
    assert result.auxiliary_loss is None


def test_large_logits_do_not_overflow():
    layer = _layer()
    assert torch.isfinite(layer(torch.randn(1, 10, 6) * 1e4).tokens).all()


@pytest.mark.parametrize("normalize", [True, False])
def test_tokens_that_are_zero_have_finite_gradients(normalize):
    layer = _layer(normalize=normalize)
    tokens = torch.randn(2, 10, 6)
    tokens[:, 3] = 0.0
    tokens.requires_grad_()
    layer(tokens).tokens.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in (tokens, *layer.parameters()))


def test_normalised_routing_does_not_depend_on_lengths():
    layer = _layer(normalize=True)
    tokens = torch.randn(2, 10, 6)
    first, second = layer(tokens), layer(7.0 * tokens)
    torch.testing.assert_close(first.dispatch_weights, second.dispatch_weights)
    with torch.no_grad():
        layer.phi.mul_(3.0)
    torch.testing.assert_close(layer(tokens).combine_weights, first.combine_weights)
    with torch.no_grad():
        layer.scale.mul_(3.0)
    assert (layer(tokens).combine_weights - first.combine_weights).abs().max() > 1e-3


def test_initial_values():
    generator = torch.Generator().manual_seed(0)
    layer = SoftMoE(121, 64, num_experts=4, hidden=16, generator=generator, normalize=True)
    assert layer.phi.mean().abs() < 3e-3
    assert layer.phi.var().item() == pytest.approx(1 / (64 * 4), rel=0.1)
    assert layer.phi.abs().max() <= 2 / math.sqrt(64 * 4) / 0.8796
    assert layer.scale.tolist() == [1.0]
    assert SoftMoE(121, 64, num_experts=4, hidden=16, generator=generator).scale is None


def test_a_larger_scale_has_slots_that_differ_from_the_start():
    """With 1 every slot is about the mean token: cosines of many dimensions are small."""
    tokens = torch.randn(2, 121, 64, generator=torch.Generator().manual_seed(1))

    def sharpness(scale: float) -> float:
        generator = torch.Generator().manual_seed(0)
        options = {"generator": generator, "normalize": True, "scale": scale}
        weights = SoftMoE(121, 64, num_experts=4, hidden=16, **options)(tokens).dispatch_weights.detach()
        return float(weights.amax(dim=1).mean() * 121)

    assert sharpness(1.0) < 1.5
    assert sharpness(16.0) > 10.0
