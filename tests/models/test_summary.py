"""What `apexpert model` prints, against sizes and products counted by hand."""

import pytest

from models.config import NetworkConfig
from models.q_network import build_network
from models.summary import summarise

ACTIONS, ATOMS = 6, 51


def summary_of(**options):
    config = NetworkConfig(encoder="nature", padding="valid", **options)
    return summarise(build_network(config, ACTIONS).eval())


def layer(summary, name):
    (found,) = [layer for layer in summary.layers if layer.name == name]
    return found


def test_the_nature_encoder_has_its_published_sizes_and_products():
    summary = summary_of(head="dense", values="scalar", dueling=False, noisy=False)
    kernels = ((8 * 8 * 4, 32, 20), (4 * 4 * 32, 64, 9), (3 * 3 * 64, 64, 7))
    for index, (inputs, channels, side) in enumerate(kernels):
        convolution = layer(summary, f"encoder.convolutions.{index}")
        assert convolution.output_shape == (1, channels, side, side)
        assert convolution.parameters == (inputs + 1) * channels
        assert convolution.flops == 2 * side * side * inputs * channels
    assert summary.feature_map == (64, 7, 7)
    assert layer(summary, "head").flops == 2 * 3136 * 512
    assert layer(summary, "head").parameters == (3136 + 1) * 512
    assert layer(summary, "output").flops == 2 * 512 * ACTIONS
    assert summary.mixture is None
    assert (
        summary.parameters == 1_687_206
    )  # Mnih et al. (2015): 1,684,128 with 0 outputs, 513 for each action
    assert summary.flops == sum(layer.flops for layer in summary.layers if layer.is_part)


@pytest.mark.parametrize("experts", [1, 4, 16])
def test_a_soft_moe_by_hand(experts):
    tokens, width, hidden = 49, 64, 512
    summary = summary_of(head="soft_moe", num_experts=experts, noisy=False)
    slots = -(-tokens // experts)
    mixture = summary.mixture
    assert (summary.num_tokens, summary.token_width) == (tokens, width)
    assert (mixture.num_experts, mixture.slots_per_expert) == (experts, slots)
    assert mixture.hidden_units == hidden
    assert mixture.parameters_per_expert == (width + 1) * hidden + (hidden + 1) * width
    assert mixture.parameters_of_routing == width * experts * slots
    in_routing = 2 * tokens * width * experts * slots  # logits, dispatch and combine: three such products
    assert layer(summary, "head.moe").flops == 3 * in_routing
    assert layer(summary, "head.moe.experts").flops == 2 * 2 * experts * slots * width * hidden
    assert layer(summary, "output").flops == 2 * tokens * width * (ACTIONS + 1) * ATOMS


def test_every_parameter_is_in_one_part_and_one_row():
    summary = summary_of(head="top_k_moe", num_experts=3)
    assert sum(layer.parameters for layer in summary.layers if layer.is_part) == summary.parameters
    rows = sum(layer.parameters for layer in summary.layers if not layer.is_part)
    assert rows == summary.parameters


def test_noise_is_counted_where_a_state_has_its_own():
    quiet, noisy = summary_of(noisy=False), summary_of(noisy=True)
    assert quiet.flops_with_noise == quiet.flops
    assert noisy.flops == quiet.flops
    assert noisy.flops_with_noise > noisy.flops
