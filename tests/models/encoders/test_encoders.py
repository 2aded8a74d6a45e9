"""Padding as XLA counts it, shapes, and initial values by layer."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from models.config import NetworkConfig
from models.encoders.build import build_encoder
from models.encoders.convolution import Convolution, max_pool
from models.geometry import same_padding, smallest_image
from models.initializers import initialize_
from models.q_network import build_network


def _generator():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (84, 8, 4, (2, 2)),
        (21, 4, 2, (1, 2)),
        (11, 3, 1, (1, 1)),
        (84, 3, 2, (0, 1)),
        (21, 3, 2, (1, 1)),
        (9, 1, 3, (0, 0)),
    ],
)
def test_same_padding_by_hand(size, kernel, stride, expected):
    assert same_padding(size, kernel, stride) == expected


def _slow_windows(image, kernel, stride, fill):
    """Every window of a (h, w) image with `same` padding, one by one: (out h, out w, kernel, kernel)."""
    height, width = image.shape
    top, left = same_padding(height, kernel, stride)[0], same_padding(width, kernel, stride)[0]
    rows = []
    for y in range(-(-height // stride)):
        for x in range(-(-width // stride)):
            window = torch.full((kernel, kernel), fill)
            for dy in range(kernel):
                for dx in range(kernel):
                    sy, sx = y * stride - top + dy, x * stride - left + dx
                    if 0 <= sy < height and 0 <= sx < width:
                        window[dy, dx] = image[sy, sx]
            rows.append(window)
    return torch.stack(rows).view(-(-height // stride), -(-width // stride), kernel, kernel)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 10), st.integers(3, 10), st.integers(0, 100))
def test_max_pool_same_is_the_slow_loop(height, width, seed):
    image = torch.randn(height, width, generator=torch.Generator().manual_seed(seed))
    expected = _slow_windows(image, 3, 2, -math.inf).amax(dim=(2, 3))
    for trains in (False, True):
        features = image[None, None].clone().requires_grad_(trains)
        torch.testing.assert_close(max_pool(features, "same")[0, 0], expected, atol=0, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 12), st.integers(4, 12), st.sampled_from([(8, 4), (4, 2), (3, 1)]))
def test_convolution_same_is_the_slow_loop(height, width, layer):
    kernel, stride = layer
    convolution = Convolution(1, 2, kernel, stride, "same", generator=_generator())
    image = torch.randn(height, width, generator=_generator())
    windows = _slow_windows(image, kernel, stride, 0.0)
    expected = torch.einsum("yxab,oab->oyx", windows, convolution.weight[:, 0]) * 0.5
    torch.testing.assert_close(convolution(image[None, None], 0.5)[0], expected, atol=1e-5, rtol=1e-4)


def test_valid_pads_nothing():
    convolution = Convolution(4, 2, 3, 2, "valid", generator=_generator())
    image = torch.randn(2, 4, 9, 10)
    torch.testing.assert_close(convolution(image), functional.conv2d(image, convolution.weight, None, 2))
    torch.testing.assert_close(max_pool(image, "valid"), functional.max_pool2d(image, 3, 2))


@pytest.mark.parametrize(
    ("name", "padding", "channels", "positions"),
    [("impala", "same", 32, (11, 11)), ("impala", "valid", 32, (7, 7)), ("nature", "same", 64, (11, 11)),
     ("nature", "valid", 64, (7, 7)), ("minatar", "same", 16, (84, 84)), ("minatar", "valid", 16, (82, 82))],
)  # fmt: skip
def test_shapes(name, padding, channels, positions):
    encoder = build_encoder(name, 4, padding, _generator())
    assert encoder.positions(84, 84) == positions
    assert encoder(torch.zeros(2, 4, 84, 84), 1.0).shape == (2, channels, *positions)


@pytest.mark.parametrize(
    ("name", "scale", "widths"),
    [("impala", 2.0, (32, 64, 64)), ("impala", 0.3, (4, 9, 9)), ("nature", 3.0, (96, 192, 192))],
)
def test_width_scale(name, scale, widths):
    encoder = build_encoder(name, 4, "same", _generator(), scale)
    assert encoder.channels == widths[-1]
    assert encoder(torch.zeros(1, 4, 84, 84), 1.0).shape == (1, widths[-1], 11, 11)
    found = [len(p) for n, p in encoder.named_parameters() if n.endswith("bias") and "blocks" not in n]
    assert tuple(found) == widths


@pytest.mark.parametrize("name", ["impala", "nature", "minatar"])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_smallest_image(name, padding):
    encoder = build_encoder(name, 1, padding, _generator())
    for at_least in (1, 3):
        size = smallest_image(name, padding, at_least)
        assert min(encoder.positions(size, size)) == at_least
        assert min(encoder.positions(size - 1, size)) < at_least


@pytest.mark.parametrize("planes", [1, 4, 7, 10])
def test_the_network_of_a_small_game_has_a_token_for_each_of_8x8_positions(planes):
    """Young and Tian, 2019: 16 filters of 3x3 on 10x10 planes, then 128 hidden units and 6 values."""
    config = NetworkConfig(
        encoder="minatar",
        padding="valid",
        values="scalar",
        dueling=False,
        noisy=False,
        dense_hidden_units=128,
    )
    observation = torch.zeros(2, planes, 10, 10, dtype=torch.uint8)
    dense = build_network(
        dataclasses.replace(config, head="dense"), 6, observation_shape=(planes, 10, 10), seed=0
    )
    assert dense(observation).q_values.shape == (2, 6)
    sizes = (planes * 9 * 16 + 16, 1024 * 128 + 128, 128 * 6 + 6)
    assert sum(parameter.numel() for parameter in dense.parameters()) == sum(sizes)
    soft = build_network(config, 6, observation_shape=(planes, 10, 10), seed=0)
    assert (soft.tokenizer.grid, soft.tokenizer.num_tokens, soft.tokenizer.width) == ((8, 8), 64, 16)
    assert soft(observation).q_values.shape == (2, 6)


def test_every_plane_reaches_the_network():
    """To 0 and 255 correspond 0 and 1: the values change with each plane, and by as much as it says."""
    config = NetworkConfig(encoder="minatar", padding="valid", head="pooled", noisy=False, values="scalar")
    network = build_network(config, 3, observation_shape=(5, 10, 10), seed=0)
    for plane in range(5):
        observation = torch.zeros(1, 5, 10, 10, dtype=torch.uint8)
        observation[0, plane, 4, 5] = 255
        image = torch.zeros(1, 5, 10, 10)
        image[0, plane, 4, 5] = 1.0
        features = network.encoder(network.to_image(observation), 1 / 255)
        torch.testing.assert_close(features, network.encoder(image, 1.0))
        assert features.any()


def test_an_unknown_encoder_is_refused():
    with pytest.raises(
        ValueError, match="'resnet': must be one of impala, nature, minatar or module:callable"
    ):
        build_encoder("resnet", 4, "same", _generator())


@pytest.mark.parametrize("name", ["impala", "nature", "minatar"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [(36, 44), (41, 53)])
def test_positions_of_other_sizes_are_what_comes_out(name, padding, size):
    encoder = build_encoder(name, 2, padding, _generator())
    assert encoder(torch.zeros(1, 2, *size), 1.0).shape[2:] == encoder.positions(*size)


def _assert_xavier(weight, fan_in, fan_out):
    bound = math.sqrt(6 / (fan_in + fan_out))
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.97 * bound
    assert weight.mean().abs() < 0.05 * bound
    assert weight.var().item() == pytest.approx(bound**2 / 3, rel=0.1)


def _assert_lecun_normal(weight, fan_in):
    assert weight.mean().abs() < 0.1 / math.sqrt(fan_in)
    assert weight.var().item() == pytest.approx(1 / fan_in, rel=0.1)
    assert weight.abs().max() <= 2 / math.sqrt(fan_in) / 0.8796
    assert weight.abs().max() > 1.9 / math.sqrt(fan_in)


def test_nature_initial_values():
    encoder = build_encoder("nature", 4, "same", _generator())
    first, second, third = encoder.convolutions
    _assert_xavier(first.weight, 64 * 4, 64 * 32)
    _assert_xavier(second.weight, 16 * 32, 16 * 64)
    _assert_xavier(third.weight, 9 * 64, 9 * 64)
    assert not any(convolution.bias.any() for convolution in encoder.convolutions)


@pytest.mark.parametrize("fan_in", [8 * 8 * 4, 7744])
def test_initial_kernels_of_the_published_distributional_agents(fan_in):
    """JAX's variance_scaling(1 / sqrt(3), fan_in, uniform): a variance of 1 / (sqrt(3) fan_in)."""
    weight = torch.empty(512, fan_in)
    initialize_(weight, fan_in, 512, _generator(), "fan_in")
    assert weight.var().item() == pytest.approx(0.57735 / fan_in, rel=0.02)
    assert weight.abs().max().item() == pytest.approx(1.316074 / math.sqrt(fan_in), rel=1e-3)
    assert weight.mean().abs() < 0.01 / math.sqrt(fan_in)


@pytest.mark.parametrize("encoder", ["nature", "impala"])
@pytest.mark.parametrize("dueling", [False, True])
def test_every_kernel_has_the_initializer_that_is_asked_for(encoder, dueling):
    options = {"encoder": encoder, "head": "dense", "dueling": dueling, "noisy": False}
    xavier, fan_in = (
        build_network(NetworkConfig(**options, initializer=kind), 3, seed=1) for kind in ("xavier", "fan_in")
    )
    for (name, first), second in zip(xavier.named_parameters(), fan_in.parameters(), strict=True):
        is_kernel = first.ndim > 1 and ".blocks." not in name  # those have lecun's
        assert torch.equal(first, second) != is_kernel, name
        if is_kernel and not (dueling and name.startswith("output")):
            inputs = first[0].numel()
            assert second.abs().max().item() == pytest.approx(1.316074 / math.sqrt(inputs), rel=0.02), name


def test_impala_initial_values():
    encoder = build_encoder("impala", 4, "same", _generator())
    for stack, (fan_in, channels) in zip(encoder.stacks, ((4, 16), (16, 32), (32, 32)), strict=True):
        _assert_xavier(stack.convolution.weight, 9 * fan_in, 9 * channels)
        for block in stack.blocks:
            _assert_lecun_normal(block.first.weight, 9 * channels)
            _assert_lecun_normal(block.second.weight, 9 * channels)
    assert not any(p.any() for name, p in encoder.named_parameters() if name.endswith("bias"))
    first, second = encoder.stacks[1].blocks
    assert not torch.equal(first.first.weight, second.first.weight)


@pytest.mark.parametrize("name", ["impala", "nature", "minatar"])
def test_centered_kernels_give_a_constant_background_the_bias_alone(name):
    encoder = build_encoder(name, 4, "valid", _generator(), centered=True)
    with torch.no_grad():
        for bias in (value for key, value in encoder.named_parameters() if key.endswith("bias")):
            bias.uniform_(0, 1, generator=_generator())
    black, grey = (encoder(torch.full((1, 4, 84, 84), value), 1 / 255) for value in (0.0, 87.0))
    torch.testing.assert_close(black, grey)
    plain = build_encoder(name, 4, "valid", _generator())
    assert not torch.allclose(plain(torch.zeros(1, 4, 84, 84), 1 / 255), plain(torch.ones(1, 4, 84, 84), 1.0))


def test_a_kernel_that_is_centered_already_acts_as_one_that_is_not():
    plain, centered = (build_encoder("nature", 4, "valid", _generator(), centered=c) for c in (False, True))
    with torch.no_grad():
        for kernel in (value for value in plain.parameters() if value.ndim == 4):
            kernel -= kernel.mean(dim=(1, 2, 3), keepdim=True)
    image = torch.rand(2, 4, 84, 84, generator=_generator())
    torch.testing.assert_close(plain(image, 1.0), centered(image, 1.0))


def test_a_mean_that_training_gives_a_centered_kernel_changes_nothing():
    encoder = build_encoder("nature", 4, "valid", _generator(), centered=True)
    image = torch.rand(2, 4, 84, 84, generator=_generator())
    before = encoder(image, 1.0)
    before.square().sum().backward()
    assert encoder.convolutions[0].weight.grad.sum(dim=(1, 2, 3)).abs().max() < 1e-3
    with torch.no_grad():
        for convolution in encoder.convolutions:
            convolution.weight += 0.1
    torch.testing.assert_close(encoder(image, 1.0), before, rtol=1e-3, atol=1e-4)
