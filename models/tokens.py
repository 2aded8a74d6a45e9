"""From feature maps to the tokens that experts see."""

from torch import Tensor


def position_tokens(features: Tensor) -> Tensor:
    """One token per position, PerConv in arXiv 2402.08609: (B, C, h, w) to (B, T = h * w, D = C), row by row.

    A view, without a copy, when the features are channels-last.
    """
    return features.flatten(2).transpose(1, 2)
