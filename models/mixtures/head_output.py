"""The output of every head."""

from typing import NamedTuple

from torch import Tensor

from models.mixtures.output import MoEOutput


class HeadOutput(NamedTuple):
    """Features for the output layer, and what diagnostics read."""

    features: Tensor
    """(B, F)"""
    hidden: Tensor
    """Hidden activations: (B, E, S, H) of experts, (B, H) of a dense layer, else the features."""
    moe: MoEOutput | None
    """None if the head is not a mixture of experts."""
