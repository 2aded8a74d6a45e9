"""Top-k MoE against a float64 loop over tokens and experts; its queue by hand, noise and initial values."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.mixtures.balancing import LossWeights, load_loss
from models.mixtures.sparse_moe import TopKMoE
from models.values.noisy import LayerNoise, Noise
from tests.helpers.models.mixtures import assert_same_gradients, expert_output, randomise


def _layer(num_tokens=10, width=6, num_experts=3, hidden=5, sigma=None, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    layer = TopKMoE(
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
    """Take one sample, choice and token after the other; an expert that is full sends the token away."""
    rows = []
    for sample, x in enumerate(tokens):
        logits = x @ layer.router
        if noise is not None and noise.router is not None:
            logits = logits + noise.router[sample].double() * layer.router_noise / layer.num_experts
        exponentials = logits.exp()
        probabilities = exponentials / exponentials.sum(dim=1, keepdim=True)
        free = [layer.num_slots] * layer.num_experts
        mixed = [torch.zeros_like(token) for token in x]
        ranked = [sorted(range(layer.num_experts), key=lambda e, p=p: -p[e].item()) for p in probabilities]
        for choice in range(layer.num_selected):
            for t, token in enumerate(x):
                expert = ranked[t][choice]
                if free[expert]:
                    free[expert] -= 1
                    output = expert_output(layer, expert, token, noise, sample)
                    mixed[t] = mixed[t] + probabilities[t, expert] * output
        rows.append(torch.stack(mixed))
    return torch.stack(rows)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 4),
    num_tokens=st.integers(1, 9),
    num_experts=st.integers(1, 5),
    selected=st.integers(1, 3),
    capacity_factor=st.sampled_from([0.3, 1.0, 2.5]),
    routed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_forward_and_backward_are_those_of_the_loop(
    batch, num_tokens, num_experts, selected, capacity_factor, routed, seed
):
    options = {
        "num_tokens": num_tokens,
        "num_experts": num_experts,
        "num_selected": min(selected, num_experts),
        "capacity_factor": capacity_factor,
        "router_noise": 2.0,
    }
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, num_tokens, 6, generator=generator)
    draws = torch.randn(batch, num_tokens, num_experts, generator=generator)
    noise = Noise(None, None, draws) if routed else None
    assert_same_gradients(
        _layer(**options, seed=seed),
        _layer(**options, seed=seed),
        tokens,
        lambda layer, x: layer(x, noise).tokens,
        lambda layer, x: _slow(layer, x, noise),
    )


@pytest.mark.parametrize("rows", [1, 4])
def test_noisy_experts(rows):
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


def _two_experts(**options):
    """A router that reads the logits off the token itself."""
    layer = _layer(width=2, num_experts=2, **options)
    with torch.no_grad():
        layer.router.copy_(torch.eye(2))
    return layer


def test_a_full_expert_drops_the_tokens_that_come_last():
    layer = _two_experts(num_tokens=4)
    tokens = torch.tensor([[[2.0, 0.0], [3.0, 0.0], [9.0, 0.0], [0.0, 1.0]]])
    result = layer(tokens)
    assert result.dispatch_weights[0, :, 0].tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]
    assert result.dispatch_weights[0, :, 1].tolist() == [[0, 0], [0, 0], [0, 0], [1, 0]]
    assert result.tokens[0, 2].tolist() == [0.0, 0.0]
    gates = tokens.softmax(dim=2)
    torch.testing.assert_close(result.router_probabilities, gates)
    torch.testing.assert_close(result.combine_weights[0, :2, 0, :], torch.diag(gates[0, :2, 0]))
    empty = torch.relu(layer.experts.bias_in[1, 0])
    torch.testing.assert_close(result.hidden[0, 1, 1], empty)


def test_second_choices_wait_until_all_first_ones_have_a_slot():
    layer = _two_experts(num_tokens=3, num_selected=2, capacity_factor=4 / 3)
    assert layer.num_slots == 2
    tokens = torch.tensor([[[2.0, 0.0], [0.0, 2.0], [0.0, 2.0]]])
    dispatch = layer(tokens).dispatch_weights[0]
    assert dispatch[:, 0].tolist() == [[1, 0], [0, 1], [0, 0]]
    assert dispatch[:, 1].tolist() == [[0, 0], [1, 0], [0, 1]]


def test_equal_probabilities_choose_the_first_expert():
    layer = _layer(num_tokens=8, num_experts=4, capacity_factor=4.0)
    chosen = layer(torch.zeros(1, 8, 6)).dispatch_weights.sum(dim=3)[0]
    assert chosen.tolist() == [[1, 0, 0, 0]] * 8


def test_noise_is_scaled_and_changes_the_routing():
    layer = _layer(router_noise=3.0)
    tokens, draws = torch.randn(2, 10, 6), torch.randn(2, 10, 3)
    result = layer(tokens, Noise(None, None, draws))
    expected = (tokens @ layer.router + draws * 3.0 / 3).softmax(dim=2)
    torch.testing.assert_close(result.router_probabilities, expected)
    quiet = layer(tokens).router_probabilities
    torch.testing.assert_close(quiet, (tokens @ layer.router).softmax(dim=2))


def test_bfloat16_routes_as_float32_does():
    layer = _layer(num_tokens=50)
    tokens = torch.randn(4, 50, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        layer.router.copy_(layer.router.bfloat16())
        exact = layer(tokens.float())
        rounded = layer.bfloat16()(tokens)
    assert rounded.tokens.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.dispatch_weights.float(), exact.dispatch_weights, atol=0, rtol=0)
    torch.testing.assert_close(rounded.tokens.float(), exact.tokens, atol=0.03, rtol=0.03)


def test_more_choices_than_experts_are_refused():
    with pytest.raises(ValueError, match="4 selected experts: must be 1 to 3"):
        _layer(num_selected=4)


def test_losses_are_weighted_and_absent_by_default():
    tokens = torch.randn(2, 10, 6)
    assert _layer()(tokens).auxiliary_loss is None
    parts = [LossWeights(1, 0, 0), LossWeights(0, 1, 0), LossWeights(0, 0, 1)]
    singles = [_layer(loss_weights=weights)(tokens).auxiliary_loss for weights in parts]
    together = _layer(loss_weights=LossWeights(2.0, 3.0, 0.5))(tokens).auxiliary_loss
    assert together.shape == (2,)
    expected = 2.0 * singles[0] + 3.0 * singles[1] + 0.5 * singles[2]
    torch.testing.assert_close(together, expected)
    assert (singles[0] > 0).all()


def test_the_load_loss_draws_noise_also_where_routing_has_none():
    layer = _layer(loss_weights=LossWeights(load=1.0))
    assert layer.router_shape == (10, 3)
    assert _layer().router_shape is None
    tokens, draws = torch.randn(2, 10, 6), torch.randn(2, 10, 3)
    quiet, noisy = layer(tokens), layer(tokens, Noise(None, None, draws))
    torch.testing.assert_close(noisy.tokens, quiet.tokens, atol=0, rtol=0)
    assert (noisy.auxiliary_loss - quiet.auxiliary_loss).abs().min() > 1e-5


@pytest.mark.parametrize(("router_noise", "std"), [(0.0, 1 / 3), (6.0, 2.0)])
def test_the_load_loss_has_the_scale_of_the_routing_noise(router_noise, std):
    layer = _layer(loss_weights=LossWeights(load=1.0), router_noise=router_noise)
    tokens, draws = torch.randn(2, 10, 6), torch.randn(2, 10, 3)
    logits = tokens @ layer.router
    expected = load_loss(logits, logits + std * draws, std, 1)
    torch.testing.assert_close(layer(tokens, Noise(None, None, draws)).auxiliary_loss, expected)


def test_initial_values():
    layer = TopKMoE(4, 1024, num_experts=8, hidden=4, generator=torch.Generator().manual_seed(0))
    assert layer.router.mean().abs() < 2e-3
    assert layer.router.var().item() == pytest.approx(1 / 1024, rel=0.1)
    assert layer.router.abs().max() <= 2 / math.sqrt(1024) / 0.8796
