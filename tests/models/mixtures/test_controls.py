"""Controls of the Soft MoE and of tokens: phi fixed or drawn by every pass, tokens that are shuffled."""

import pytest
import torch

from models.config import NetworkConfig
from models.mixtures.soft_moe import SoftMoE
from models.q_network import QNetwork, build_network
from models.values.noisy import Noise
from tests.helpers.models.mixtures import expert_output, randomise

SHAPE = (2, 44, 44)


def _network(seed: int = 3, **changes) -> QNetwork:
    base = {"encoder": "nature", "expert_hidden_units": 16, "num_atoms": 7}
    return build_network(NetworkConfig(**(base | changes)), 4, observation_shape=SHAPE, seed=seed)


def _observation(batch: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, *SHAPE), dtype=torch.uint8, generator=generator)


def _drawn(network: QNetwork, seed: int = 1, **arguments) -> Noise:
    noise = network.sample_noise(torch.Generator().manual_seed(seed), **arguments)
    assert noise is not None
    return noise


@pytest.mark.parametrize("normalize", [False, True])
def test_a_fixed_phi_gives_the_same_values_and_gets_no_gradient(normalize: bool) -> None:
    trained, fixed = _network(normalize=normalize), _network(normalize=normalize, phi="fixed")
    values, same = trained(_observation()).q_values, fixed(_observation()).q_values
    assert torch.equal(values, same)
    for network, output in ((trained, values), (fixed, same)):
        output.square().sum().backward()
        phi = dict(network.named_parameters())["head.moe.phi"]
        assert (phi.grad is None) == (network is fixed)
        assert network.head.moe.experts.weight_in.grad.abs().max() > 0
        assert not normalize or network.head.moe.scale.grad.abs().max() > 0


def _slow_mixture(layer: SoftMoE, tokens: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
    """Combined tokens (B, T, D), by one slot after the other, in float64; phi is (B, D, E * S)."""
    rows = []
    for x, p in zip(tokens.double(), phi.double(), strict=True):
        if layer.scale is not None:
            p = layer.scale.double() * p / (p.norm(dim=0) + 1e-6)
        routed = x / (x.norm(dim=1, keepdim=True) + 1e-6) if layer.scale is not None else x
        weights = (routed @ p).exp()
        outputs = []
        for slot in range(p.shape[1]):
            mixed = (weights[:, slot] / weights[:, slot].sum()) @ x
            outputs.append(expert_output(layer, slot // layer.num_slots, mixed, None, 0))
        rows.append(weights / weights.sum(dim=1, keepdim=True) @ torch.stack(outputs))
    return torch.stack(rows)


@pytest.mark.parametrize("normalize", [False, True])
def test_a_redrawn_phi_is_the_rows_own(normalize: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = {"num_experts": 2, "hidden": 5, "generator": generator, "normalize": normalize}
    layer = randomise(SoftMoE(7, 6, phi="redrawn", **sizes), generator)
    assert not [name for name, _ in layer.named_parameters() if "phi" in name]
    tokens, phi = torch.randn(3, 7, 6, generator=generator), torch.randn(3, 6, 8, generator=generator)
    actual = layer(tokens, Noise(None, None, phi=phi)).tokens
    expected = _slow_mixture(layer.double(), tokens, phi)
    torch.testing.assert_close(actual.double(), expected, atol=1e-5, rtol=1e-4)


def test_a_redrawn_phi_is_of_unit_normals_drawn_for_each_row_with_noise_or_without() -> None:
    network = _network(phi="redrawn")
    noise = _drawn(network, batch_size=50, layers=False)
    assert (noise.hidden, noise.output, noise.order) == (None, None, None)
    assert noise.phi.shape == (50, *network.head.moe.phi.shape)
    assert abs(noise.phi.mean().item()) < 0.01
    assert abs(noise.phi.std().item() - 1.0) < 0.01
    assert not torch.equal(noise.phi[0], noise.phi[1])
    assert len(_drawn(network, routed_rows=5).phi) == 5
    assert torch.equal(noise.rows(slice(10, 12)).phi, noise.phi[10:12])


@pytest.mark.parametrize("changes", [{"phi": "redrawn"}, {"shuffle": "features"}])
def test_passes_without_noise_are_alike_in_networks_of_other_seeds(changes: dict) -> None:
    """An actor gets the learner's parameters and nothing else."""
    first, second = _network(3, **changes), _network(4, **changes)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(_observation()).q_values, second(_observation()).q_values)


def test_noise_changes_nothing_for_networks_that_draw_nothing_of_their_own() -> None:
    network, generator = _network(noisy=False), torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert network.sample_noise(generator, 3, routed_rows=3) is None
    assert _network().sample_noise(generator, 3, layers=False) is None
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("head", ["soft_moe", "top_k_moe", "expert_choice"])
def test_shuffled_tokens_are_each_rows_own_permutation(head: str) -> None:
    network = _network(shuffle="tokens", head=head, noisy=False)
    noise = _drawn(network, batch_size=3)
    places = list(range(network.tokenizer.num_tokens))
    orders = noise.order.tolist()
    assert all(sorted(order) == places for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    image = network.to_image(_observation())
    tokens = network.tokenizer(network.encoder(image, scale=1 / 255))
    moved = torch.stack([row[order] for row, order in zip(tokens, orders, strict=True)])
    expected = network.head(moved, None)
    actual = network(_observation(), noise)
    torch.testing.assert_close(actual.moe.tokens, expected.moe.tokens)
    assert not torch.allclose(actual.q_values, network(_observation()).q_values)


@pytest.mark.parametrize("tokens", ["per_conv", "per_feature_map", "per_patch"])
def test_shuffled_features_are_one_permutation_before_they_are_cut(tokens: str) -> None:
    network = _network(shuffle="features", tokens=tokens, patch_size=2, noisy=False)
    plain = _network(tokens=tokens, patch_size=2, noisy=False)
    order = network.tokenizer.order
    assert sorted(order.tolist()) == list(range(64 * 6 * 6))
    assert order.tolist() != list(range(64 * 6 * 6))
    features = torch.randn(2, 64, 6, 6, generator=torch.Generator().manual_seed(1))
    expected = plain.tokenizer(features.flatten(1)[:, order].view(2, 64, 6, 6))
    torch.testing.assert_close(network.tokenizer(features), expected)
    channels_last = features.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network.tokenizer(channels_last), expected)
    assert network.tokenizer.grid is None
    assert (network.tokenizer.num_tokens, network.tokenizer.width) == expected.shape[1:]
