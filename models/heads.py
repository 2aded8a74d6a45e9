"""What stands between the encoder and the values: a head, then the output layer."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.initializers import xavier_uniform_
from models.noisy import LayerNoise, NoisyLinear
from models.soft_moe import SoftMoE, SoftMoEOutput
from models.tokens import position_tokens


class HeadOutput(NamedTuple):
    """Features for the output layer, and what diagnostics look at."""

    features: Tensor
    """(B, F)"""
    hidden: Tensor
    """Hidden activations: (B, E, S, H) of experts, (B, H) of a dense layer."""
    soft_moe: SoftMoEOutput | None


class Linear(nn.Module):
    """Dense layer with xavier-uniform kernel and zero bias, with the call signature of `NoisyLinear`."""

    def __init__(self, in_features: int, out_features: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        xavier_uniform_(self.weight, in_features, out_features, generator)

    def forward(self, inputs: Tensor, noise: LayerNoise | None = None) -> Tensor:
        """(B, in) to (B, out); there is no noise to use."""
        return functional.linear(inputs, self.weight, self.bias)


def build_linear(
    in_features: int, out_features: int, sigma: float | None, generator: torch.Generator
) -> Linear | NoisyLinear:
    """A noisy layer where `sigma` is given, else a plain one."""
    if sigma is None:
        return Linear(in_features, out_features, generator)
    return NoisyLinear(in_features, out_features, sigma, generator)


class SoftMoEHead(nn.Module):
    """Tokens of the feature map through one Soft MoE layer, flattened."""

    def __init__(
        self,
        channels: int,
        positions: tuple[int, int],
        *,
        num_experts: int,
        hidden: int,
        sigma: float | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        num_tokens = positions[0] * positions[1]
        self.out_features = num_tokens * channels
        self.noise_sizes = None if sigma is None else (channels, hidden)
        self.soft_moe = SoftMoE(
            num_tokens, channels, num_experts=num_experts, hidden=hidden, generator=generator, sigma=sigma
        )

    def forward(self, feature_map: Tensor, noise: LayerNoise | None) -> HeadOutput:
        """(B, C, h, w) to features (B, T * C)."""
        result = self.soft_moe(position_tokens(feature_map), noise)
        return HeadOutput(result.tokens.flatten(1), result.hidden, result)


class DenseHead(nn.Module):
    """The baseline: the flattened feature map through one hidden layer."""

    def __init__(
        self,
        channels: int,
        positions: tuple[int, int],
        *,
        hidden: int,
        sigma: float | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.out_features = hidden
        in_features = channels * positions[0] * positions[1]
        self.noise_sizes = None if sigma is None else (in_features, hidden)
        self.hidden = build_linear(in_features, hidden, sigma, generator)

    def forward(self, feature_map: Tensor, noise: LayerNoise | None) -> HeadOutput:
        """(B, C, h, w) to features (B, H)."""
        hidden = functional.relu(self.hidden(position_tokens(feature_map).flatten(1), noise))
        return HeadOutput(hidden, hidden, None)


class OutputLayer(nn.Module):
    """Features (B, F) to (B, A, Z), one linear map.

    With dueling streams (Wang et al., 2016) the first Z outputs are the state's value and the rest the
    advantages; the streams have no hidden layer of their own, and share the noise of their inputs, as in the
    reference code.
    """

    def __init__(
        self,
        in_features: int,
        num_actions: int,
        num_atoms: int,
        *,
        dueling: bool,
        sigma: float | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.dueling = dueling
        self.num_atoms = num_atoms
        out_features = (num_actions + dueling) * num_atoms
        self.noise_sizes = None if sigma is None else (in_features, out_features)
        self.linear = build_linear(in_features, out_features, sigma, generator)
        if (
            dueling and sigma is None
        ):  # Two kernels of different fan-out, as two separate layers would have them.
            xavier_uniform_(self.linear.weight[:num_atoms], in_features, num_atoms, generator)
            xavier_uniform_(self.linear.weight[num_atoms:], in_features, num_actions * num_atoms, generator)

    def forward(self, features: Tensor, noise: LayerNoise | None) -> Tensor:
        """(B, F) to float32 (B, A, Z)."""
        outputs: Tensor = self.linear(features, noise).float().view(len(features), -1, self.num_atoms)
        if not self.dueling:
            return outputs
        value, advantage = outputs[:, :1], outputs[:, 1:]
        return value + advantage - advantage.mean(dim=1, keepdim=True)
