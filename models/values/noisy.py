"""Linear layers with factorised Gaussian parameter noise (Fortunato et al., 2018, arXiv 1706.10295).

Initial values are those of the reference code of arXiv 2402.08609: means U(-1/sqrt(in), 1/sqrt(in))
for kernels and biases, scales `sigma / sqrt(in)` for both (sigma is 0.1 there).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.initializers import fan_in_uniform_


class LayerNoise(NamedTuple):
    """Factorised noise of one layer: f(x) = sign(x) sqrt(|x|) of unit normals; R is 1 (shared) or B."""

    inputs: Tensor
    """(R, in)"""
    outputs: Tensor
    """(R, out)"""


class Noise(NamedTuple):
    """One draw for a whole network; None for a layer without noise."""

    hidden: LayerNoise | None
    """Noise of the head's hidden layer, shared by all experts, as in the reference code."""
    output: LayerNoise | None
    """Noise of the output layer."""
    router: Tensor | None = None
    """(R, T, E) unit normals for the logits of a Top-k mixture's router; only drawn in training."""
    phi: Tensor | None = None
    """(R, D, E * S) unit normals, the phi of a Soft MoE whose phi is redrawn; in evaluation too."""
    order: Tensor | None = None
    """(R, T) int64, the order of each row's tokens where they are shuffled; in evaluation too."""

    def rows(self, part: slice) -> "Noise":
        """Return the noise for a part of the batch's rows; a draw that all rows share stays whole."""

        def cut(noise: Tensor) -> Tensor:
            return noise if len(noise) == 1 else noise[part]

        hidden, output = (layer and LayerNoise(*map(cut, layer)) for layer in (self.hidden, self.output))
        drawn = (self.router, self.phi, self.order)
        return Noise(hidden, output, *(None if noise is None else cut(noise) for noise in drawn))


def draw_factors(sizes: list[int], rows: int, generator: torch.Generator) -> list[Tensor]:
    """Draw float32 noise factors (rows, size) for each size, on the generator's device, in a single draw."""
    normal = torch.randn(rows, sum(sizes), generator=generator, device=generator.device)
    return list(torch.split(normal.abs().sqrt_() * normal.sign(), sizes, dim=1))


class NoisyLinear(nn.Module):
    """y = x (W + S * outer(e_out, e_in))' + b + s * e_out; without noise only the means W and b are used."""

    def __init__(self, in_features: int, out_features: int, sigma: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        scale = sigma / math.sqrt(in_features)
        self.weight_sigma = nn.Parameter(torch.full((out_features, in_features), scale))
        self.bias_sigma = nn.Parameter(torch.full((out_features,), scale))
        fan_in_uniform_(self.weight, in_features, generator)
        fan_in_uniform_(self.bias, in_features, generator)

    def forward(self, inputs: Tensor, noise: LayerNoise | None) -> Tensor:
        """Map (B, in) to (B, out), in the dtype of the inputs.

        Noise that differs per row is applied without building a weight matrix per row.
        """
        dtype = inputs.dtype
        means = functional.linear(inputs, self.weight.to(dtype), self.bias.to(dtype))
        if noise is None:
            return means
        noise_in, noise_out = noise.inputs.to(dtype), noise.outputs.to(dtype)
        sigma = (self.weight_sigma.to(dtype), self.bias_sigma.to(dtype))
        # ((x * e_in) S') * e_out equals x (S * outer(e_out, e_in))', row by row.
        return means + functional.linear(inputs * noise_in, *sigma) * noise_out
