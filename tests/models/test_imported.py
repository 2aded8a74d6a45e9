"""A user's own encoder and head by module:callable."""

import pytest
import torch
from torch import nn

from models.config import NetworkConfig
from models.q_network import build_network

SHAPE = (3, 40, 48)


def tiny_encoder(config, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, int(8 * config.encoder_width_scale), 8, 8), nn.ReLU())


def vector_head(config, num_tokens, width):
    return nn.Sequential(nn.Flatten(), nn.Linear(num_tokens * width, config.dense_hidden_units), nn.Tanh())


def token_head(config, num_tokens, width):
    return nn.Linear(width, 7)


def narrow_head(config, num_tokens, width):
    return nn.Linear(width + 1, 3)


def number(config, size, *rest):
    return 3


def broken(config, size, *rest):
    raise RuntimeError("no such\nlayer")


class Raising(nn.Module):
    def forward(self, image):
        raise RuntimeError("no pass")


PLACE = rf"\({__file__}, line {Raising.forward.__code__.co_firstlineno + 1}\)"


def raising_encoder(config, in_channels):
    return Raising()


def flat_encoder(config, in_channels):
    return nn.Flatten()


def _build(seed=0, **options):
    names = {k: f"{__name__}:{v}" if k in ("encoder", "head") else v for k, v in options.items()}
    config = NetworkConfig(**{"encoder": "nature", "padding": "valid", "num_atoms": 5, **names})
    return build_network(config, 4, observation_shape=SHAPE, seed=seed)


def _observation():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, *SHAPE), dtype=torch.uint8, generator=generator)


def test_an_encoder_of_ones_own():
    network = _build(encoder="tiny_encoder", encoder_width_scale=2.0)
    assert (network.tokenizer.grid, network.tokenizer.width) == ((5, 6), 16)
    output = network(_observation())
    assert output.moe.tokens.shape == (2, 30, 16)
    image = network.encoder.inner(_observation().float() / 255)
    torch.testing.assert_close(network.encoder(_observation().float(), 1 / 255), image)
    gradients = torch.autograd.grad(output.logits.square().sum(), network.encoder.parameters())
    assert all(gradient.any() for gradient in gradients)


@pytest.mark.parametrize(("combine", "features"), [("flatten", 7 * 30), ("mean", 7)])
def test_a_head_that_gives_tokens(combine, features):
    network = _build(encoder="tiny_encoder", head="token_head", combine=combine)
    output = network(_observation())
    assert output.hidden.shape == (2, features)
    assert output.moe is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_that_gives_a_vector_with_noise_after_it(dtype):
    network = _build(head="vector_head", dense_hidden_units=9, noisy_sigma=3.0).to(dtype)
    noise = network.sample_noise(torch.Generator().manual_seed(0))
    assert noise.hidden is None
    quiet, noisy = network(_observation()), network(_observation(), noise)
    assert quiet.hidden.shape == (2, 9)
    assert (quiet.q_values - noisy.q_values).abs().max() > 1e-3


def test_it_is_reproducible_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, second, other = (_build(encoder="tiny_encoder", head="vector_head", seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.encoder.inner[0].weight, other.encoder.inner[0].weight)


@pytest.mark.parametrize(("part", "name", "reason"), [
    ("encoder", "nothing", "cannot be made: AttributeError: .*nothing"),
    ("head", "nothing", "cannot be made: AttributeError: .*nothing"),
    ("head", "number", "gives int, not a torch.nn.Module"),
    ("encoder", "broken", "cannot be made: RuntimeError: no such layer"),
    ("encoder", "flat_encoder", r"makes \(1, 5760\) of inputs of \(1, 3, 40, 48\), not a batch with 4 dim"),
    ("head", "tiny_encoder", "cannot be made: TypeError"),
    ("encoder", "raising_encoder", rf"fails on inputs of .*: RuntimeError: no pass {PLACE}$"),
    ("head", "narrow_head", "fails on inputs of .*: RuntimeError"),
])  # fmt: skip
def test_what_does_not_fit_is_one_line_with_its_flag(part, name, reason):
    with pytest.raises(ValueError, match=rf"^--network.{part} '.*:{name}' {reason}") as caught:
        _build(**{part: name})
    assert "\n" not in str(caught.value)
