"""Which weights of a network are zero: how many of each layer, which by chance, which by magnitude.

Kernels are the weights of convolutions, dense layers and experts, a user's own included; biases,
norms, phi and a router are none. Each expert of a mixture is a layer of its own.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.config import Distribution
from models.mixtures.experts import Experts


class Kernel(NamedTuple):
    """A kernel that may be sparse: L layers (experts) of n weights, or one."""

    name: str
    parameter: nn.Parameter
    num_layers: int
    """L"""
    shape: tuple[int, ...]
    """Shape of one layer, of n weights."""

    def rows(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the kernel's shape as (L, n)."""
        return tensor.reshape(self.num_layers, -1)


def kernels(network: nn.Module) -> list[Kernel]:
    """Return the network's kernels, in the order of its parameters; the scale of a noise is no kernel."""
    found = []
    for prefix, module in network.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            leaf = name.rpartition(".")[2]
            if parameter.ndim > 1 and "weight" in leaf and not leaf.endswith("_sigma"):
                layered = isinstance(module, Experts)
                shape = tuple(parameter.shape)
                layers = (shape[0], shape[1:]) if layered else (1, shape)
                found.append(Kernel(name, parameter, *layers))
    return found


def layer_sparsities(
    layers: Sequence[tuple[int, ...]], sparsity: float, distribution: Distribution
) -> list[float]:
    """Return the share of zeros of each layer, given by shape, so that all together have `sparsity`.

    erk is the Erdos-Renyi kernel of Evci et al., 2020 (arXiv 1911.11134): a layer keeps weights in
    proportion to the sum of its shape over the product of its shape; a layer that would keep more
    than all keeps all.
    """
    if distribution == "uniform":
        return [sparsity] * len(layers)
    sizes, sums = [math.prod(shape) for shape in layers], [sum(shape) for shape in layers]
    whole: set[int] = set()
    while True:
        rest = [i for i in range(len(layers)) if i not in whole]
        kept = (1.0 - sparsity) * sum(sizes) - sum(sizes[i] for i in whole)
        # What a layer keeps is scale times the sum of its shape.
        scale = kept / sum(sums[i] for i in rest) if rest else 0.0
        full = {i for i in rest if scale * sums[i] > sizes[i]}
        if not full:
            return [0.0 if i in whole else 1.0 - scale * sums[i] / sizes[i] for i in range(len(layers))]
        whole |= full


def lowest(scores: Tensor, count: Sequence[int]) -> Tensor:
    """Return a mask (L, n), True at the `count` lowest scores of each row; of equals the first."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for row, score, chosen in zip(mask, scores, count, strict=True):
        row[score.argsort(stable=True)[:chosen]] = True
    return mask
