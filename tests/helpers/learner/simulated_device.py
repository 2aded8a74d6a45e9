"""A device that computes nothing, on any build of torch: what runs there is seen to be fit for a GPU.

Tensors on it have a shape and a type but no numbers (torch's fake tensors, on its backend for private use).
So an operator between it and the CPU fails, and so does reading a number, which would wait for a GPU.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "simulated"
VIEWS = frozenset(
    {
        *("_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "device", "diagonal", "expand"),
        *("permute", "reshape", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose"),
        *("unbind", "unfold", "unsqueeze", "view"),
    }
)
"""Operators that launch nothing."""


class Waited(AssertionError):
    """The host has waited for the device."""


class _Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators, and refuses copies to the host."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "_fused_adam_":  # It changes its arguments alone, and torch has no stand-in for it.
            self.counts[name] += 1
            return None
        result = func(*args, **(kwargs or {}))
        source = next((value for value in args if isinstance(value, torch.Tensor)), None)
        comes_from_there = source is not None and source.device.type == NAME
        if comes_from_there and isinstance(result, torch.Tensor) and result.device.type == "cpu":
            raise Waited(f"{func}: a copy to the host")
        if name not in VIEWS:
            self.counts[name] += 1
        return result


class _Mode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """The mode of all tensors of a test, which stays the same when a network is copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Mode":
        return self


@contextlib.contextmanager
def simulated_device() -> Iterator[tuple[torch.device, FakeTensorMode]]:
    """Yield the device, and the mode in which tensors are moved and created there."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        _setup_privateuseone_for_python_backend(NAME)
    # One thread computes gradients: the engine has none for this device.
    with torch.autograd.set_multithreading_enabled(False):
        yield torch.device(NAME), _Mode(allow_non_fake_inputs=False)


@contextlib.contextmanager
def counting() -> Iterator[Counter[str]]:
    """Yield the number of launches by operator, counted while entered; raises `Waited`."""
    launches = _Launches()
    with contextlib.ExitStack() as stack:
        for name in ("randn", "rand"):
            stack.enter_context(mock.patch.object(torch, name, _without_generator(getattr(torch, name))))
        stack.enter_context(launches)
        yield launches.counts


def _without_generator(draw: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The device has no generators: random numbers come without one."""
    return lambda *args, generator, **kwargs: draw(*args, **kwargs)


def move(network: nn.Module, device: torch.device) -> None:
    """Put a network's parameters and buffers on the device; to be called in the device's mode.

    Built before, because drawing initial weights needs numbers.
    """
    for module in network.modules():
        for tensors in (cast(dict[str, Any], module._parameters), cast(dict[str, Any], module._buffers)):
            for name, tensor in tensors.items():
                if tensor is not None:
                    empty = torch.empty_strided(
                        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device
                    )
                    is_parameter = isinstance(tensor, nn.Parameter)
                    tensors[name] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty


def generator_on(device: torch.device) -> Any:
    """Return a stand-in for a generator of the device."""
    return SimpleNamespace(device=device)


def is_simulated(tensor: torch.Tensor) -> bool:
    """Whether a tensor is on the device."""
    return isinstance(tensor, FakeTensor) and tensor.device.type == NAME
