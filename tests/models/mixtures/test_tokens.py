"""Tokens of every kind, by small examples whose answers are written down."""

import math

import pytest
import torch

from models.config import NetworkConfig
from models.mixtures.tokens import Tokenizer, combine_tokens, combined_size, position_tokens

FEATURES = torch.arange(12.0).view(1, 2, 2, 3)
"""Two channels on two rows and three columns."""


def _tokenizer(channels=2, positions=(2, 3), **options):
    return Tokenizer(
        NetworkConfig(**options), channels, positions, generator=torch.Generator().manual_seed(0)
    )


def test_position_tokens_go_row_by_row():
    assert position_tokens(FEATURES)[0].tolist() == [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]


def test_per_conv():
    tokenizer = _tokenizer()
    assert (tokenizer.num_tokens, tokenizer.width, tokenizer.grid) == (6, 2, (2, 3))
    torch.testing.assert_close(tokenizer(FEATURES), position_tokens(FEATURES))


def test_per_feature_map():
    tokenizer = _tokenizer(tokens="per_feature_map")
    assert (tokenizer.num_tokens, tokenizer.width, tokenizer.grid) == (2, 6, None)
    assert tokenizer(FEATURES)[0].tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


def test_per_sample_has_the_channels_of_a_position_beside_each_other():
    tokenizer = _tokenizer(tokens="per_sample")
    assert (tokenizer.num_tokens, tokenizer.width, tokenizer.grid) == (1, 12, None)
    assert tokenizer(FEATURES)[0].tolist() == [[0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]]


def test_per_patch_average_cuts_off_what_is_left_over():
    options = {"tokens": "per_patch", "patch_size": 2, "patch_embedding": "average"}
    tokenizer = _tokenizer(positions=(5, 4), **options)
    assert (tokenizer.num_tokens, tokenizer.width, tokenizer.grid) == (4, 2, (2, 2))
    assert not list(tokenizer.parameters())
    features = torch.randn(3, 2, 5, 4)
    for token, (y, x) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        expected = features[:, :, y : y + 2, x : x + 2].mean(dim=(2, 3))
        torch.testing.assert_close(tokenizer(features)[:, token], expected)


@pytest.mark.parametrize(("patch_width", "width"), [(0, 2), (7, 7)])
def test_per_patch_learned_is_a_linear_map_of_each_patch(patch_width, width):
    tokenizer = _tokenizer(positions=(7, 6), tokens="per_patch", patch_width=patch_width)
    assert (tokenizer.num_tokens, tokenizer.width, tokenizer.grid) == (4, width, (2, 2))
    features = torch.randn(3, 2, 7, 6)
    with torch.no_grad():
        tokenizer.embedding.bias.uniform_()
    kernel, bias = tokenizer.embedding.weight.flatten(1), tokenizer.embedding.bias
    for token, (y, x) in enumerate([(0, 0), (0, 3), (3, 0), (3, 3)]):
        patch = features[:, :, y : y + 3, x : x + 3].flatten(1)
        torch.testing.assert_close(tokenizer(features)[:, token], patch @ kernel.T + bias)


def test_initial_values_of_the_patch_embedding():
    tokenizer = _tokenizer(channels=64, positions=(11, 11), tokens="per_patch", patch_width=32)
    weight = tokenizer.embedding.weight
    fan_in = 9 * 64
    assert weight.mean().abs() < 1e-3
    assert weight.var().item() == pytest.approx(1 / fan_in, rel=0.05)
    assert 1.9 / math.sqrt(fan_in) < weight.abs().max() <= 2 / math.sqrt(fan_in) / 0.8796
    assert not tokenizer.embedding.bias.any()


def test_a_patch_larger_than_the_map_is_refused():
    with pytest.raises(ValueError, match=r"patches of 3 positions do not fit on \(2, 3\)"):
        _tokenizer(tokens="per_patch")


@pytest.mark.parametrize(("how", "expected"), [
    ("flatten", [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]), ("mean", [2.5, 8.5]), ("sum", [15, 51])
])  # fmt: skip
def test_combined_tokens(how, expected):
    combined = combine_tokens(position_tokens(FEATURES), how)
    assert combined[0].tolist() == expected
    assert combined_size(6, 2, how) == len(expected)
