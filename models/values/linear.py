"""A linear layer, plain or noisy."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.config import Initializer
from models.initializers import initialize_
from models.values.noisy import LayerNoise, NoisyLinear


class Linear(nn.Module):
    """Dense layer with zero bias, with the call signature of `NoisyLinear`."""

    def __init__(
        self, in_features: int, out_features: int, generator: torch.Generator, initializer: Initializer
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        initialize_(self.weight, in_features, out_features, generator, initializer)

    def forward(self, inputs: Tensor, noise: LayerNoise | None = None) -> Tensor:
        """Map (B, in) to (B, out), in the dtype of the inputs; there is no noise to use."""
        # Inputs may be float32 in a bfloat16 network: see `OutputLayer.forward`.
        return functional.linear(inputs, self.weight.to(inputs.dtype), self.bias.to(inputs.dtype))


def build_linear(
    in_features: int,
    out_features: int,
    sigma: float | None,
    generator: torch.Generator,
    initializer: Initializer,
) -> Linear | NoisyLinear:
    """Build a noisy layer if `sigma` is given, else a plain one."""
    if sigma is None:
        return Linear(in_features, out_features, generator, initializer)
    return NoisyLinear(in_features, out_features, sigma, generator)
