"""All parameters of a network in one flat tensor: an optimizer step, a cast or a copy is one pass over it."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Parameters start at multiples of this many elements: 64 bytes even in bfloat16, one cache line.
ALIGNMENT = 32


def _offsets(parameters: Iterable[Tensor]) -> list[int]:
    """Return where each parameter starts, and where the last one ends, in elements."""
    offsets = [0]
    for parameter in parameters:
        offsets.append(offsets[-1] + -(-parameter.numel() // ALIGNMENT) * ALIGNMENT)
    return offsets


def views(network: nn.Module, flat: Tensor) -> list[Tensor]:
    """Return one view of `flat` per parameter, in the parameter's shape and memory format."""
    parameters = list(network.parameters())
    starts = _offsets(parameters)
    # Not strict: one start is left over, the end of the last.
    return [flat.as_strided(p.shape, p.stride(), start) for p, start in zip(parameters, starts, strict=False)]


def named_views(network: nn.Module, flat: Tensor) -> dict[str, Tensor]:
    """Return `views` by parameter name."""
    names = [name for name, _ in network.named_parameters()]
    return dict(zip(names, views(network, flat), strict=True))


def pack(network: nn.Module) -> Tensor:
    """Move the network's parameters, all of one dtype and device, into one flat, zero-padded tensor.

    The parameters become views of it, so that a change of either changes both.
    """
    parameters = list(network.parameters())
    first = parameters[0]
    # Zeros, not `empty`: the padding is part of every norm and step over the whole.
    flat = torch.zeros(_offsets(parameters)[-1], dtype=first.dtype, device=first.device)
    for parameter, view in zip(parameters, views(network, flat), strict=True):
        view.copy_(parameter.detach())
        # `.data`: the parameter stays the object that modules and optimizer hold.
        parameter.data = view
    return flat
