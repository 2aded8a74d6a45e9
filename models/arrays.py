"""Convert a network's parameters to and from one flat array, which is published, stored and loaded."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class Weights:
    """One published version of the online network's parameters."""

    version: int
    """Number of publications before this one: 0 for the initial weights."""
    parameters: NDArray[np.float32]
    """(P,) in the order of `flatten`."""
    env_steps: int
    """Env steps of the fleet at the time of publication."""
    updates: int = 0
    """Updates that produced the parameters."""
    published_at: float = 0.0
    """When they reached the store, in seconds since the epoch; 0 where there is no store."""


def num_parameters(network: nn.Module) -> int:
    """Return P, the number of scalars in the network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def flatten(network: nn.Module) -> NDArray[np.float32]:
    """Return all parameters, in the order of `network.parameters()`, as a new float32 array (P,)."""
    with torch.no_grad():
        # reshape, not view, because channels-last kernels are not contiguous.
        parts = [parameter.detach().float().reshape(-1).cpu() for parameter in network.parameters()]
        return torch.cat(parts).numpy()


def load(network: nn.Module, array: NDArray[np.float32]) -> None:
    """Load what `flatten` returns into the network, keeping the network's dtype and device.

    Raises ValueError if the array does not have the network's size.
    """
    size = num_parameters(network)
    if array.shape != (size,):
        raise ValueError(f"weights have shape {array.shape}, the network has {size} parameters")
    unflatten(network, torch.from_numpy(array if array.flags.writeable else np.asarray(_SameMemory(array))))


@dataclass(frozen=True)
class _SameMemory:
    """A read-only array's memory as NumPy and torch take it without a warning; nobody here writes to it.

    Ray's object store returns such arrays. A copy would double the time for which an actor stands still.
    """

    array: NDArray[np.float32]

    @property
    def __array_interface__(self) -> dict[str, Any]:
        interface: dict[str, Any] = self.array.__array_interface__
        return interface | {"data": (interface["data"][0], False)}


def unflatten(network: nn.Module, source: Tensor) -> None:
    """Copy a flat tensor (P,) into the network's parameters."""
    offset = 0
    with torch.no_grad():
        for parameter in network.parameters():
            part = source[offset : offset + parameter.numel()]
            parameter.copy_(part.view(parameter.shape))
            offset += parameter.numel()
