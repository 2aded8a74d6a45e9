"""Noisy layers: the formula, independence of rows, initial values."""

import pytest
import torch

from models.values.noisy import LayerNoise, Noise, NoisyLinear, draw_factors


def _layer():
    layer = NoisyLinear(5, 3, 0.5, torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer.weight_sigma.uniform_(0, 1)
        layer.bias_sigma.uniform_(0, 1)
    return layer


@pytest.mark.parametrize("rows", [1, 4])
def test_noise_is_that_of_perturbed_weights(rows):
    layer = _layer()
    inputs = torch.randn(4, 5)
    noise = LayerNoise(torch.randn(rows, 5), torch.randn(rows, 3))
    actual = layer(inputs, noise)
    for row in range(4):
        noise_in, noise_out = (part[row % rows] for part in noise)
        weight = layer.weight + layer.weight_sigma * torch.outer(noise_out, noise_in)
        bias = layer.bias + layer.bias_sigma * noise_out
        torch.testing.assert_close(actual[row], weight @ inputs[row] + bias)


def test_noise_off_gives_the_means():
    layer = _layer()
    inputs = torch.randn(4, 5)
    torch.testing.assert_close(layer(inputs, None), inputs @ layer.weight.T + layer.bias)


def test_factors_are_signed_roots_of_normals():
    generator = torch.Generator().manual_seed(1)
    first, second = draw_factors([40_000, 3], 2, generator)
    assert first.shape == (2, 40_000)
    assert second.shape == (2, 3)
    normal = first * first.abs()
    assert normal.mean().item() == pytest.approx(0.0, abs=0.02)
    assert normal.std().item() == pytest.approx(1.0, rel=0.02)
    assert torch.corrcoef(first)[0, 1].abs() < 0.02
    assert not torch.equal(draw_factors([4], 1, generator)[0], draw_factors([4], 1, generator)[0])


def test_initial_values():
    layer = NoisyLinear(400, 30, 0.1, torch.Generator().manual_seed(0))
    for mean in (layer.weight, layer.bias):
        assert mean.abs().max() <= 1 / 20
    assert layer.weight.mean().abs() < 0.001
    assert layer.weight.abs().max() > 0.99 / 20
    assert layer.weight.var().item() == pytest.approx(1 / 400 / 3, rel=0.05)
    torch.testing.assert_close(layer.weight_sigma, torch.full((30, 400), 0.1 / 20))
    torch.testing.assert_close(layer.bias_sigma, torch.full((30,), 0.1 / 20))


def test_the_noise_of_a_weight_has_mean_zero_and_its_sigma_and_factorises():
    layer = _layer()
    factors = draw_factors([5, 3], 40_000, torch.Generator().manual_seed(1))
    outer = factors[1].unsqueeze(2) * factors[0].unsqueeze(1)  # (R, out, in)
    changes = layer.weight_sigma.detach() * outer
    # The variance of each factor is E |x| = sqrt(2 / pi) for a unit normal x.
    expected = layer.weight_sigma.detach().square() * 2 / torch.pi
    torch.testing.assert_close(changes.var(dim=0), expected, rtol=0.08, atol=1e-4)
    assert changes.mean(dim=0).abs().max() < 0.02
    assert torch.linalg.matrix_rank(outer[:50]).max() == 1


def test_a_part_of_the_rows():
    shared = LayerNoise(torch.randn(1, 5), torch.randn(1, 3))
    single = LayerNoise(torch.randn(8, 5), torch.randn(8, 3))
    noise = Noise(shared, single, torch.randn(8, 4, 2)).rows(slice(2, 5))
    assert torch.equal(noise.hidden.inputs, shared.inputs)
    assert torch.equal(noise.output.outputs, single.outputs[2:5])
    assert noise.router.shape == (3, 4, 2)
    assert Noise(None, shared).rows(slice(2, 5)) == Noise(None, shared)
