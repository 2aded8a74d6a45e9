"""Losses that keep the experts of a Top-k mixture evenly used, each (B,), one number per sample.

They are those of the reference code of arXiv 2402.08609, which takes importance and load from
Riquelme et al., 2021 (arXiv 2106.05974, appendix A.2). All are 0 if the experts are used evenly.

Shapes: B batch, T tokens, E experts, k choices of a token.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

COUNT_FLOOR = 1e-6
"""Added to every count before its logarithm is taken, as in the reference code."""


class LossWeights(NamedTuple):
    """Weights of the three losses; 0 leaves a loss out."""

    importance: float = 0.0
    load: float = 0.0
    entropy: float = 0.0


NO_LOSSES = LossWeights()


def importance_loss(probabilities: Tensor) -> Tensor:
    """Return the squared coefficient of variation of the experts' summed probabilities (B, T, E)."""
    return _squared_variation(probabilities.sum(dim=1))


def load_loss(logits: Tensor, noisy_logits: Tensor, noise_std: float, num_selected: int) -> Tensor:
    """Return the squared coefficient of variation of the experts' chances to be chosen with a new noise draw.

    `logits` and `noisy_logits` (B, T, E) are the router's, without and with normal noise of
    `noise_std`. A token chooses an expert if its logit reaches the token's k-th largest noisy
    logit.
    """
    threshold = noisy_logits.topk(num_selected, dim=2).values[:, :, -1:]  # (B, T, 1)
    chances = torch.special.ndtr((logits - threshold) / noise_std)
    return _squared_variation(chances.mean(dim=1))


def entropy_loss(probabilities: Tensor, chosen: Tensor) -> Tensor:
    """Return 1 minus the entropy of the experts' shares of all choices, divided by its maximum, log(E).

    `chosen` (B, T, E) is 1 where a token chose an expert. Counting has no gradient, so in the
    reference code this loss changes nothing; here the gradient of the probabilities passes straight
    through the counts.
    """
    num_experts = probabilities.shape[2]
    # With one expert the largest entropy, log(1), is 0, and the quotient would be NaN.
    if num_experts == 1:
        return torch.zeros_like(probabilities[:, 0, 0])
    soft = (probabilities * chosen.sum(dim=2, keepdim=True)).sum(dim=1)
    # The counts give the value, the probabilities the gradient (decision 0013).
    counts = chosen.sum(dim=1).to(soft.dtype) + (soft - soft.detach()) + COUNT_FLOOR
    shares = counts / counts.sum(dim=1, keepdim=True)
    return 1.0 + (shares * shares.log()).sum(dim=1) / math.log(num_experts)


def _squared_variation(values: Tensor) -> Tensor:
    # (B, E). The variance, not the squared deviation, whose gradient at 0 is not finite.
    variation: Tensor = values.var(dim=1, correction=0) / values.mean(dim=1).square()
    return variation
