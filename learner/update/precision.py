"""The device that the networks compute on, and the copy of the weights that computes."""

import copy
import os
from typing import Literal

import torch
from torch import Tensor

from learner.update.flat_parameters import pack, views
from models.precision import Precision
from models.q_network import QNetwork


def choose_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device that `LearnerConfig.device` means on this machine."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def missing_gpu(name: Literal["auto", "cpu", "cuda"]) -> str:
    """Return why `auto` does not use the GPU that Ray has reserved; empty if it does, or if there is none."""
    # Ray gives the ids of the GPUs that it has reserved by this variable, which is empty for none.
    if name != "auto" or not os.environ.get("CUDA_VISIBLE_DEVICES") or torch.cuda.is_available():
        return ""
    return "Ray has reserved a GPU for the learner, and torch finds none: it learns on the CPU"


def be_strict(precision: Precision) -> None:
    """Have a GPU multiply float32 numbers as such, if `float32` was asked for by name.

    By default its convolutions round them to TF32, with 10 bits of mantissa.
    """
    if precision == "float32":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


class ComputeCopy:
    """The network that computes: the float32 network itself, or a copy of it in a smaller dtype.

    Casting all weights once per update is cheaper than autocast, which casts them in each of the three
    forward passes, and it rounds the same numbers in the same places.
    """

    def __init__(self, network: QNetwork, flat: Tensor, dtype: torch.dtype) -> None:
        self.source = flat
        """The float32 weights, flat (see `pack`)."""
        self._flat = flat
        self.network = network
        if dtype != flat.dtype:
            self.network = copy.deepcopy(network).to(dtype)
            # Packed again, because `to` gave each parameter memory of its own.
            self._flat = pack(self.network)
        # A list once, because walking the modules costs Python time in every update.
        self.parameters = list(self.network.parameters())

    @torch.no_grad()
    def refresh(self, part: slice = slice(None)) -> None:
        """Copy the current float32 weights, or one part of the flat ones."""
        if self._flat is not self.source:
            self._flat[part].copy_(self.source[part])

    def gradient_buffer(self) -> tuple[Tensor, list[Tensor]]:
        """Return a flat gradient in the network's dtype, and its view for each parameter."""
        # Zeros in the padding too, which counts in the gradient's norm and in Adam's step.
        flat = torch.zeros_like(self._flat, requires_grad=False)
        return flat, views(self.network, flat)
