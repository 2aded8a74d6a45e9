"""Soft MoE against a float64 loop over experts, forward and backward, and its initial values."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.noisy import LayerNoise
from models.soft_moe import Experts, SoftMoE
from models.tokens import position_tokens


def _layer(num_tokens=10, width=6, num_experts=3, hidden=5, sigma=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    layer = SoftMoE(
        num_tokens, width, num_experts=num_experts, hidden=hidden, generator=generator, sigma=sigma
    )
    with torch.no_grad():  # Biases that are not zero, so that they count.
        layer.experts.bias_in.uniform_(-1, 1, generator=generator)
        layer.experts.bias_out.uniform_(-1, 1, generator=generator)
    return layer


def _slow(layer, tokens, noise_in=None, noise_out=None):
    """One sample, one expert and one slot after the other; noise (in,), (out,) of that sample."""
    experts, slots = layer.num_experts, layer.num_slots
    phi = layer.phi.view(-1, experts, slots)
    rows = []
    for sample in range(len(tokens)):
        x = tokens[sample]
        logits = torch.einsum("td,des->tes", x, phi)
        exponentials = logits.exp()
        mixed = torch.zeros_like(x)
        for e in range(experts):
            weight, bias = layer.experts.weight_in[e], layer.experts.bias_in[e, 0]
            if noise_in is not None:
                weight = weight + layer.experts.weight_in_sigma[e] * torch.outer(
                    noise_in[sample], noise_out[sample]
                )
                bias = bias + layer.experts.bias_in_sigma[e, 0] * noise_out[sample]
            for s in range(slots):
                dispatch = exponentials[:, e, s] / exponentials[:, e, s].sum()
                hidden = (dispatch @ x @ weight + bias).clamp(min=0)
                output = hidden @ layer.experts.weight_out[e] + layer.experts.bias_out[e, 0]
                combine = exponentials[:, e, s] / exponentials.sum(dim=(1, 2))
                mixed = mixed + combine[:, None] * output
        rows.append(mixed)
    return torch.stack(rows)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 5), st.integers(0, 1000))
def test_forward_and_backward_are_those_of_the_loop(batch, num_tokens, num_experts, seed):
    layer = _layer(num_tokens=num_tokens, num_experts=num_experts, seed=seed)
    slow = _layer(num_tokens=num_tokens, num_experts=num_experts, seed=seed).double()
    tokens = torch.randn(batch, num_tokens, 6, generator=torch.Generator().manual_seed(seed))
    inputs, slow_inputs = tokens.clone().requires_grad_(), tokens.double().requires_grad_()
    actual, expected = layer(inputs).tokens, _slow(slow, slow_inputs)
    torch.testing.assert_close(actual, expected.float(), atol=1e-5, rtol=1e-4)
    direction = torch.randn(actual.shape, generator=torch.Generator().manual_seed(seed + 1))
    (actual * direction).sum().backward()
    (expected * direction.double()).sum().backward()
    torch.testing.assert_close(inputs.grad, slow_inputs.grad.float(), atol=1e-5, rtol=1e-4)
    for (name, fast), exact in zip(layer.named_parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(fast.grad, exact.grad.float(), atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("rows", [1, 4])
def test_noise_of_one_draw_and_of_a_draw_per_row(rows):
    layer, batch = _layer(sigma=0.7), 4
    slow = _layer(sigma=0.7).double()
    generator = torch.Generator().manual_seed(9)
    tokens = torch.randn(batch, 10, 6, generator=generator)
    noise = LayerNoise(torch.randn(rows, 6, generator=generator), torch.randn(rows, 5, generator=generator))
    noise_in, noise_out = (part.double().expand(batch, -1) for part in noise)
    actual, expected = layer(tokens, noise).tokens, _slow(slow, tokens.double(), noise_in, noise_out)
    torch.testing.assert_close(actual, expected.float(), atol=1e-5, rtol=1e-4)
    actual.square().sum().backward()
    expected.square().sum().backward()
    for (name, fast), exact in zip(layer.named_parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(fast.grad, exact.grad.float(), atol=1e-4, rtol=1e-3, msg=name)


def test_weights_sum_to_one_over_tokens_and_over_slots():
    result = _layer()(torch.randn(2, 10, 6))
    torch.testing.assert_close(result.dispatch_weights.sum(dim=1), torch.ones(2, 3, 4))
    torch.testing.assert_close(result.combine_weights.sum(dim=(2, 3)), torch.ones(2, 10))
    assert result.hidden.shape == (2, 3, 4, 5)


@pytest.mark.parametrize(("tokens", "experts", "slots"), [(121, 4, 31), (121, 8, 16), (49, 4, 13), (1, 4, 1)])
def test_slots_per_expert(tokens, experts, slots):
    assert _layer(num_tokens=tokens, num_experts=experts).num_slots == slots


def test_large_logits_do_not_overflow():
    layer = _layer()
    assert torch.isfinite(layer(torch.randn(1, 10, 6) * 1e4).tokens).all()


def test_initial_values():
    layer = SoftMoE(121, 64, num_experts=4, hidden=512, generator=torch.Generator().manual_seed(0))
    assert layer.phi.var().item() == pytest.approx(1 / (64 * 4), rel=0.1)
    assert layer.phi.abs().max() <= 2 / math.sqrt(64 * 4) / 0.8796
    bound = math.sqrt(6 / (64 + 512))
    for weight in (layer.experts.weight_in, layer.experts.weight_out):
        assert 0.99 * bound < weight.abs().max() <= bound
        assert weight.var().item() == pytest.approx(bound**2 / 3, rel=0.05)
    assert not torch.equal(layer.experts.weight_in[0], layer.experts.weight_in[1])
    assert not layer.experts.bias_in.any()
    assert not layer.experts.bias_out.any()


def test_initial_values_of_noisy_experts():
    experts = Experts(4, 64, 512, torch.Generator().manual_seed(0), sigma=0.1)
    for mean in (experts.weight_in, experts.bias_in):
        assert 0.98 / 8 < mean.abs().max() <= 1 / 8
        assert mean.var().item() == pytest.approx(1 / 64 / 3, rel=0.1)
    for sigma in (experts.weight_in_sigma, experts.bias_in_sigma):
        torch.testing.assert_close(sigma, torch.full_like(sigma, 0.1 / 8))
    assert not experts.bias_out.any()


def test_position_tokens_go_row_by_row():
    features = torch.arange(12.0).view(1, 2, 2, 3)
    assert position_tokens(features)[0].tolist() == [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]
