"""Initial values of parameters, drawn from an explicit generator.

The scales are those of the reference code of arXiv 2402.08609 (flax): its "xavier uniform" and
"lecun normal", the latter a normal truncated at two standard deviations.
"""

import math

import torch
from torch import Tensor

from models.config import Initializer

# Standard deviation of a unit normal truncated at +-2: dividing by it gives the truncated draw unit variance.
TRUNCATED_STD = 0.87962566103423978


def xavier_uniform_(tensor: Tensor, fan_in: int, fan_out: int, generator: torch.Generator) -> None:
    """Fill with U(-a, a), a = sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    with torch.no_grad():
        tensor.uniform_(-bound, bound, generator=generator)


def initialize_(
    tensor: Tensor, fan_in: int, fan_out: int, generator: torch.Generator, initializer: Initializer
) -> None:
    """Fill with `xavier_uniform_`, or for `fan_in` with U(-a, a), a = sqrt(sqrt(3) / fan_in).

    The first is used by the paper's agents and Dopamine's DQN; the second, of variance 1 / (sqrt(3)
    fan_in), by its C51, Rainbow and QR-DQN (`RainbowNetwork` and `QuantileNetwork` of
    dopamine/jax/networks.py).
    """
    if initializer == "xavier":
        xavier_uniform_(tensor, fan_in, fan_out, generator)
        return
    bound = math.sqrt(math.sqrt(3.0) / fan_in)
    with torch.no_grad():
        tensor.uniform_(-bound, bound, generator=generator)


def lecun_normal_(tensor: Tensor, fan_in: int, generator: torch.Generator) -> None:
    """Fill with a normal of variance 1 / fan_in, truncated at two standard deviations of the full normal."""
    std = 1.0 / (math.sqrt(fan_in) * TRUNCATED_STD)
    with torch.no_grad():
        torch.nn.init.trunc_normal_(tensor, std=std, a=-2.0 * std, b=2.0 * std, generator=generator)


def fan_in_uniform_(tensor: Tensor, fan_in: int, generator: torch.Generator) -> None:
    """Fill with U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as the means of noisy layers (Fortunato et al., 2018)."""
    bound = 1.0 / math.sqrt(fan_in)
    with torch.no_grad():
        tensor.uniform_(-bound, bound, generator=generator)
