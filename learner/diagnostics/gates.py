"""How a mixture of experts shares its work: pure functions of its routing weights.

Shapes: B batch, T tokens, E experts, S slots per expert. Weights are (B, T, E, S), not negative.
"""

import math

import torch
from torch import Tensor


def _check(weights: Tensor) -> Tensor:
    if weights.ndim != 4:
        raise ValueError(f"routing weights have shape {tuple(weights.shape)}, not (B, T, E, S)")
    return weights.double()


def expert_shares(weights: Tensor) -> Tensor:
    """Return the share (E,) float64 of all the weights' mass in each expert; zeros if there is no mass.

    For a Soft MoE's dispatch weights it is 1 / E by construction (every slot's weights sum to one), so look
    at its combine weights; for a Top-k MoE both are informative.
    """
    mass = _check(weights).sum(dim=(0, 1, 3))
    total = mass.sum()
    # A batch whose tokens were all dropped has no mass, and no share of it.
    return mass / total if total > 0 else mass


def dispatch_entropy(dispatch_weights: Tensor) -> float:
    """Return the mean entropy of each slot's mixture of tokens, over log T: 1 for all alike, 0 for one token.

    Empty slots do not count; 0 if all are empty.
    """
    weights = _check(dispatch_weights)
    return _mean_entropy(weights.flatten(2).transpose(1, 2))  # (B, E * S, T)


def combine_entropy(combine_weights: Tensor) -> float:
    """Return the mean entropy of each token's mixture of slots, over log(E * S): 1 for all alike, 0 for one.

    A token's weights are scaled to sum to one; tokens without weights do not count; 0 if none has any.
    """
    return _mean_entropy(_check(combine_weights).flatten(2))


def dropped_token_share(dispatch_weights: Tensor) -> float:
    """Return the share of the tokens that are in no slot because all slots they were sent to are full."""
    return float((_check(dispatch_weights).sum(dim=(2, 3)) == 0).double().mean())


def _mean_entropy(weights: Tensor) -> float:
    """Return the mean entropy, in units of log N, over the rows (..., N) that have mass."""
    mass = weights.sum(dim=-1)
    shares = weights[mass > 0] / mass[mass > 0].unsqueeze(-1)
    if weights.shape[-1] < 2 or not len(shares):
        return 0.0
    return float(-torch.xlogy(shares, shares).sum(dim=-1).mean()) / math.log(weights.shape[-1])
