"""Dormant neurons and features: pure functions of activations. B is the batch."""

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

DORMANT_TAU = 0.025
"""Score at or below which a neuron counts as dormant."""


def feature_variances(features: Tensor) -> Tensor:
    """Return each feature's variance over the batch (not Bessel's): (B, ...) to (...) float64."""
    if features.ndim < 2:
        raise ValueError(f"features have shape {tuple(features.shape)}, not (B, ..., H)")
    return features.double().var(dim=0, correction=0)


def dormant_features(variances: Tensor, threshold: float) -> int:
    """Count the features that vary over the batch by at most `threshold`: the reference's `dormant_t`."""
    return int((variances <= threshold).sum())


def feature_norm(variances: Tensor) -> float:
    """Return the L2 norm of the features' variances (..., H), averaged over the rest, as in the reference."""
    return float(torch.linalg.vector_norm(variances, dim=-1).mean())


def channel_activity(activations: Tensor) -> Tensor:
    """Return each channel's mean absolute activation (C,), over batch and positions.

    `activations` are (B, C, h, w) or (B, C).
    """
    if activations.ndim not in (2, 4):
        raise ValueError(f"activations have shape {tuple(activations.shape)}, not (B, C) or (B, C, h, w)")
    # The mean is over [0] for (B, C), over [0, 2, 3] for (B, C, h, w).
    return activations.double().abs().mean(dim=[0, 2, 3][: activations.ndim - 1])


def head_activity(hidden: Tensor) -> Tensor:
    """Return each head neuron's mean absolute activation: (H,) of (B, H), or (E, H) of (B, E, S, H)."""
    if hidden.ndim == 4:
        return hidden.double().abs().mean(dim=(0, 2))
    return channel_activity(hidden)


def dormant_neurons(activity: Tensor, tau: float = DORMANT_TAU) -> int:
    """Count a layer's tau-dormant neurons (Sokar et al., 2023, arXiv 2302.12902, definition 3.1).

    A neuron's score is its mean absolute activation, `activity` of any shape, divided by the layer's mean. In
    a layer without any activity all neurons are dormant.
    """
    return int((activity <= tau * activity.mean()).sum())


RELUS = (functional.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
"""Calls that are a ReLU; `nn.ReLU` makes the first, within which the others are not seen."""


class EncoderActivity(TorchFunctionMode):
    """While active, records the `channel_activity` of every ReLU over feature maps (B, C, h, w), in order.

    It intercepts the calls of the current thread, so that it works with any encoder, including a user's own
    (`RELUS` are the calls it knows).
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Call `func` and inspect its result."""
        result = func(*args, **(kwargs or {}))
        if func in RELUS and result.ndim == 4:
            # The statistics must not become part of the graph of the pass being watched.
            with torch.no_grad():
                self.layers.append(channel_activity(result))
        return result
