"""The network as a whole: outputs, determinism, noise, dueling, dtypes, initial values."""

import dataclasses
import math

import pytest
import torch

from models.config import NetworkConfig
from models.q_network import build_network

SMALL = NetworkConfig(
    encoder="nature", padding="valid", expert_hidden_units=16, dense_hidden_units=24, num_atoms=7
)
SHAPE = (4, 44, 44)


def _observation(batch=3, shape=SHAPE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, *shape), dtype=torch.uint8, generator=generator)


def _network(seed=0, num_actions=4, **changes):
    return build_network(
        dataclasses.replace(SMALL, **changes), num_actions, observation_shape=SHAPE, seed=seed
    )


@pytest.mark.parametrize("values", ["scalar", "c51", "quantile"])
@pytest.mark.parametrize("dueling", [True, False])
@pytest.mark.parametrize("noisy", [True, False])
def test_every_output(values, dueling, noisy):
    network = _network(values=values, dueling=dueling, noisy=noisy, num_quantiles=9)
    noise = network.sample_noise(torch.Generator().manual_seed(1), 3)
    assert (noise is not None) == noisy
    output = network(_observation(), noise)
    assert output.q_values.shape == (3, 4)
    assert output.q_values.dtype == torch.float32
    shape = {"scalar": (3, 4), "c51": (3, 4, 7), "quantile": (3, 4, 9)}[values]
    assert (output.logits is not None, output.quantiles is not None) == (
        values == "c51",
        values == "quantile",
    )
    assert (output.outputs.shape, output.outputs.dtype) == (shape, torch.float32)
    gradients = torch.autograd.grad(output.outputs.square().sum(), list(network.parameters()))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_q_values_are_the_distributions_means():
    network = _network(v_min=-3.0, v_max=3.0)
    output = network(_observation())
    support = torch.tensor([-3.0, -2, -1, 0, 1, 2, 3])
    torch.testing.assert_close(output.q_values, (output.logits.softmax(-1) * support).sum(-1))


@pytest.mark.parametrize("dueling", [True, False])
def test_q_values_are_the_quantiles_means(dueling):
    output = _network(values="quantile", num_quantiles=5, dueling=dueling)(_observation())
    by_hand = torch.stack([output.quantiles[:, :, i] for i in range(5)]).sum(0) / 5
    torch.testing.assert_close(output.q_values, by_hand)
    assert output.q_values.std() > 0


def test_equal_seeds_equal_networks_and_no_global_state():
    before = torch.get_rng_state()
    first, second, other = _network(seed=5), _network(seed=5), _network(seed=6)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.output.linear.weight, other.output.linear.weight)


def test_dueling_advantages_have_no_common_part():
    network = _network(noisy=False, values="scalar")
    with torch.no_grad():  # Raising all advantages alike changes nothing.
        before = network(_observation()).q_values
        network.output.linear.bias[1:] += 2.5
        torch.testing.assert_close(network(_observation()).q_values, before)
        network.output.linear.bias[0] += 1.0
        torch.testing.assert_close(network(_observation()).q_values, before + 1.0)


def test_noise_rows_are_independent_and_each_is_a_network_of_its_own():
    network = _network(noisy_sigma=2.0)
    observation = _observation(1).expand(3, -1, -1, -1)
    noise = network.sample_noise(torch.Generator().manual_seed(2), 3)
    together = network(observation, noise).q_values
    assert (together[0] - together[1]).abs().max() > 1e-3
    for row in range(3):
        own = noise.rows(slice(row, row + 1))
        torch.testing.assert_close(
            network(observation[:1], own).q_values[0], together[row], atol=1e-5, rtol=1e-4
        )


def test_shared_noise_treats_equal_rows_alike():
    network = _network(noisy_sigma=2.0)
    observation = _observation(1).expand(3, -1, -1, -1)
    noise = network.sample_noise(torch.Generator().manual_seed(2))
    rows = network(observation, noise).q_values
    torch.testing.assert_close(rows[0], rows[2])
    assert (rows[0] - network(observation[:1]).q_values[0]).abs().max() > 1e-3


def test_bfloat16_keeps_the_support_exact_and_is_close():
    network = build_network(NetworkConfig(encoder="nature", padding="valid"), 4, seed=0)
    observation = _observation(2, (4, 84, 84))
    with torch.no_grad():
        exact = network(observation).q_values
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = network(observation).q_values
        network.to(torch.bfloat16)
        assert network.support.dtype == torch.float32
        torch.testing.assert_close(network.support, torch.linspace(-10, 10, 51))
        rounded = network(observation).q_values
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0)
    torch.testing.assert_close(autocast, exact, atol=0.05, rtol=0)


@pytest.mark.parametrize("noisy", [False, True])
def test_a_bfloat16_network_tells_close_values_apart(noisy):
    config = NetworkConfig(encoder="nature", padding="valid", values="scalar", noisy=noisy)
    network = build_network(config, 18, seed=0).to(torch.bfloat16)
    with torch.no_grad():
        network.output.linear.bias += 1.5  # where its steps are 0.008
        noise = network.sample_noise(torch.Generator().manual_seed(1), 2) if noisy else None
        values = network(_observation(2, (4, 84, 84)), noise).q_values
    assert values.dtype == torch.float32
    assert (values != values.bfloat16().float()).float().mean() > 0.9
    assert len(values.unique()) == values.numel()


def test_observation_is_scaled_to_one():
    network = _network(noisy=False)
    image = _observation().float() / 255
    features = network.encoder(image.contiguous(memory_format=torch.channels_last), 1.0)
    torch.testing.assert_close(network.encoder(network.to_image(_observation()), 1 / 255), features)


def test_output_layer_initial_values():
    network = build_network(NetworkConfig(encoder="nature", noisy=False), 6, seed=0)
    weight = network.output.linear.weight
    assert weight.shape == (7 * 51, 7744)
    for rows, fan_out in ((weight[:51], 51), (weight[51:], 6 * 51)):
        bound = math.sqrt(6 / (7744 + fan_out))
        assert 0.999 * bound < rows.abs().max() <= bound
        assert rows.var().item() == pytest.approx(bound**2 / 3, rel=0.02)
    assert not network.output.linear.bias.any()


def test_dqn_output_layer_initial_values():
    """paper-dqn's: one plain layer."""
    config = NetworkConfig(encoder="nature", values="scalar", dueling=False, noisy=False)
    linear = build_network(config, 6, seed=0).output.linear
    assert linear.weight.shape == (6, 7744)
    bound = math.sqrt(6 / (7744 + 6))
    assert 0.999 * bound < linear.weight.abs().max() <= bound
    assert linear.weight.var().item() == pytest.approx(bound**2 / 3, rel=0.02)
    assert not linear.bias.any()


@pytest.mark.parametrize("noisy", [False, True])
def test_dense_hidden_layer_initial_values(noisy):
    config = NetworkConfig(encoder="nature", head="dense", noisy=noisy)
    hidden = build_network(config, 6, seed=0).head.hidden
    assert hidden.weight.shape == (512, 7744)
    bound = 1 / math.sqrt(7744) if noisy else math.sqrt(6 / (7744 + 512))
    assert 0.999 * bound < hidden.weight.abs().max() <= bound
    assert hidden.weight.var().item() == pytest.approx(bound**2 / 3, rel=0.01)
    if noisy:
        assert hidden.bias.abs().max() <= bound
        assert hidden.bias.abs().max() > 0.9 * bound
        assert (hidden.weight_sigma == hidden.weight_sigma[0, 0]).all()
    else:
        assert not hidden.bias.any()


def test_too_small_observations_are_refused():
    with pytest.raises(ValueError, match="too small"):
        build_network(SMALL, 3, observation_shape=(4, 20, 20))
