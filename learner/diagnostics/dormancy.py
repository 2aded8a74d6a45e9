"""Neurons that say nothing: pure functions of activations. B is the batch."""

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

DORMANT_TAU = 0.025
"""Score at or below which a neuron counts as dormant."""


def feature_variances(features: Tensor) -> Tensor:
    """Variance over the batch (not Bessel's) of each feature: (B, ...) to (...) float64."""
    if features.ndim < 2:
        raise ValueError(f"features have shape {tuple(features.shape)}, not (B, ..., H)")
    return features.double().var(dim=0, correction=0)


def dormant_features(variances: Tensor, threshold: float) -> int:
    """How many features vary over the batch by at most `threshold`: `dormant_t` of the reference code."""
    return int((variances <= threshold).sum())


def feature_norm(variances: Tensor) -> float:
    """L2 norm of the features' variances (..., H), mean over the rest: as the reference code has it."""
    return float(torch.linalg.vector_norm(variances, dim=-1).mean())


def channel_activity(activations: Tensor) -> Tensor:
    """Mean absolute activation (C,) of each channel over batch and positions, of (B, C, h, w) or (B, C)."""
    if activations.ndim not in (2, 4):
        raise ValueError(f"activations have shape {tuple(activations.shape)}, not (B, C) or (B, C, h, w)")
    return activations.double().abs().mean(dim=[0, 2, 3][: activations.ndim - 1])


def head_activity(hidden: Tensor) -> Tensor:
    """Mean absolute activation of each neuron of a head, of (B, H) or (B, E, S, H): (H,) or (E, H)."""
    if hidden.ndim == 4:
        return hidden.double().abs().mean(dim=(0, 2))
    return channel_activity(hidden)


def dormant_neurons(activity: Tensor, tau: float = DORMANT_TAU) -> int:
    """How many neurons of a layer are tau-dormant (Sokar et al., 2023, arXiv 2302.12902, definition 3.1).

    A neuron's score is its mean absolute activation, `activity` of any shape, over the layer's mean of it. In
    a layer without any activity all neurons are dormant.
    """
    return int((activity <= tau * activity.mean()).sum())


class EncoderActivity(TorchFunctionMode):
    """While active, notes the `channel_activity` of every ReLU over feature maps (B, C, h, w), in order.

    It watches the calls of the current thread, so that it works with any encoder, a user's too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Call `func` and look at what it returns."""
        result = func(*args, **(kwargs or {}))
        if func is functional.relu and result.ndim == 4:
            with torch.no_grad():
                self.layers.append(channel_activity(result))
        return result
