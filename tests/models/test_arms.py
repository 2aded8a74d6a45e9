"""Every arm with both encoders and both agents: shapes, gradients, bfloat16, noise by row."""

import pytest
import torch

from models.config import HEADS, NetworkConfig
from models.q_network import build_network
from tests.helpers.models.arms import AGENTS, ARMS

SHAPE = (2, 44, 44)
SMALL = {"expert_hidden_units": 16, "dense_hidden_units": 24, "num_atoms": 7}


def _network(arm, encoder="nature", agent="dqn", **changes):
    config = NetworkConfig(**{"encoder": encoder, **SMALL, **ARMS[arm], **AGENTS[agent], **changes})
    return build_network(config, 4, observation_shape=SHAPE, seed=3)


def _observation(batch=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, *SHAPE), dtype=torch.uint8, generator=generator)


def _loss(output):
    loss = output.outputs.square().mean()
    if output.moe is not None and output.moe.auxiliary_loss is not None:
        loss = loss + output.moe.auxiliary_loss.mean()
    return loss


def _is_fixed(network, name):
    return name == "head.moe.phi" and network.config.phi == "fixed"


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("encoder", ["impala", "nature"])
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_runs_forward_and_backward_and_rounds_to_bfloat16(arm, encoder, agent):
    network = _network(arm, encoder, agent)
    generator = torch.Generator().manual_seed(1)
    noise = network.sample_noise(generator, routed_rows=3)
    output = network(_observation(), noise)
    assert output.q_values.shape == (3, 4)
    assert output.q_values.dtype == torch.float32
    assert (output.moe is None) == (network.config.head in ("dense", "pooled"))
    if output.moe is not None:
        moe, size = output.moe, network.tokenizer
        assert moe.tokens.shape == (3, size.num_tokens, size.width)
        shape = (3, size.num_tokens, network.config.num_experts, moe.hidden.shape[2])
        assert moe.dispatch_weights.shape == moe.combine_weights.shape == shape
        assert moe.router_probabilities.shape == shape[:3]
        assert moe.hidden.shape == (3, *shape[2:], network.config.hidden_of_an_expert)
        assert output.hidden is moe.hidden
    # `grad` refuses a parameter that the output does not depend on.
    parameters = [p for name, p in network.named_parameters() if not _is_fixed(network, name)]
    gradients = torch.autograd.grad(_loss(output), parameters)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    exact = output.q_values.detach()
    rounded_network = network.to(torch.bfloat16)
    rounded = rounded_network(_observation(), noise)
    assert rounded.q_values.dtype == torch.float32
    # A token whose router all but hesitates may go elsewhere when the encoder rounds: few do.
    torch.testing.assert_close(rounded.q_values, exact, atol=0.1 + 0.05 * exact.abs().max().item(), rtol=0)
    gradients = torch.autograd.grad(_loss(rounded), parameters)
    assert all(gradient.dtype == torch.bfloat16 and torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("arm", ARMS)
def test_each_row_of_noise_is_a_network_of_its_own(arm):
    network = _network(arm, agent="rainbow", noisy_sigma=2.0)
    noise = network.sample_noise(torch.Generator().manual_seed(2), 3)
    assert noise.router is None, "who acts, routes without noise"
    together = network(_observation(), noise).q_values
    for row in range(3):
        alone = network(_observation()[row : row + 1], noise.rows(slice(row, row + 1))).q_values
        torch.testing.assert_close(alone[0], together[row], atol=1e-4, rtol=1e-3)
    quiet = network(_observation()).q_values
    torch.testing.assert_close(quiet, network(_observation(), None).q_values, atol=0, rtol=0)
    assert (quiet - together).abs().max() > 1e-3


def test_noise_is_drawn_for_what_has_some():
    generator = torch.Generator().manual_seed(0)
    assert _network("soft moe").sample_noise(generator, routed_rows=3) is None
    assert _network("top 1").sample_noise(generator, routed_rows=3) is None
    assert _network("top 1, balanced").sample_noise(generator, 3) is None
    noise = _network("top 1, balanced").sample_noise(generator, routed_rows=3)
    assert (noise.hidden, noise.output) == (None, None)
    assert noise.router.shape == (3, 36, 4)
    assert len({tuple(row.flatten().tolist()) for row in noise.router}) == 3
    assert _network("pooled, mean", agent="rainbow").sample_noise(generator, 3).hidden is None


def test_the_routing_of_a_batch_is_that_of_its_parts():
    network = _network("top 1, balanced", agent="rainbow")
    noise = network.sample_noise(torch.Generator().manual_seed(0), routed_rows=3)
    whole = network(_observation(), noise)
    parts = [network(_observation()[part], noise.rows(part)) for part in (slice(0, 2), slice(2, 3))]
    torch.testing.assert_close(torch.cat([part.logits for part in parts]), whole.logits, atol=1e-5, rtol=1e-4)
    losses = torch.cat([part.moe.auxiliary_loss for part in parts])
    torch.testing.assert_close(losses, whole.moe.auxiliary_loss)


def _parameters(arm, part="head", **changes):
    return sum(p.numel() for p in getattr(_network(arm, **changes), part).parameters())


def test_scaled_arms_have_the_parameters_they_promise():
    units = {"expert_hidden_units": 64, "dense_hidden_units": 64}
    one = _parameters("soft moe, one expert", **units)
    phi = 64 * 36
    assert _parameters("soft moe, scaled single expert", **units) == phi + 64 * 256 * 2 + 256 + 64
    assert _network("soft moe, scaled single expert").config.hidden_of_an_expert == 64
    slim = _network("soft moe, slim experts", **units)
    assert slim.config.hidden_of_an_expert == 16
    weights = slim.head.moe.experts.weight_in.numel() + slim.head.moe.experts.weight_out.numel()
    assert weights == one - phi - 64 - 64
    dense, matched = _parameters("dense", **units), _parameters("dense, parameter-matched", **units)
    assert matched == 4 * dense
    assert _parameters("pooled, mean") == 0
    wide = _parameters("soft moe, wide encoder", "encoder")
    assert 3.5 < wide / _parameters("soft moe", "encoder") < 4.0


def test_the_controls_compute_what_they_say():
    pooled, dense = _network("pooled, mean"), _network("dense, sum")
    features = pooled.encoder(pooled.to_image(_observation()), 1 / 255)
    torch.testing.assert_close(pooled(_observation()).hidden, features.mean(dim=(2, 3)))
    features = dense.encoder(dense.to_image(_observation()), 1 / 255).sum(dim=(2, 3))
    expected = torch.relu(features @ dense.head.hidden.weight.T + dense.head.hidden.bias)
    torch.testing.assert_close(dense(_observation()).hidden, expected, atol=1e-4, rtol=1e-4)
    combined = _network("soft moe, mean")
    output = combined(_observation())
    q_values = output.moe.tokens.mean(dim=1) @ combined.output.linear.weight.T + combined.output.linear.bias
    torch.testing.assert_close(output.q_values, q_values)


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match="'moe': must be one of " + ", ".join(HEADS)):
        _network("soft moe", head="moe")
