"""Who does the work in a mixture of experts: pure functions of its routing weights.

Shapes: B batch, T tokens, E experts, S slots of an expert. Weights are (B, T, E, S), not negative.
"""

import math

import torch
from torch import Tensor


def _check(weights: Tensor) -> Tensor:
    if weights.ndim != 4:
        raise ValueError(f"routing weights have shape {tuple(weights.shape)}, not (B, T, E, S)")
    return weights.double()


def expert_shares(weights: Tensor) -> Tensor:
    """Share (E,) float64 of all the weights' mass that goes through each expert; zeros if there is no mass.

    Of a Soft MoE's dispatch weights it is 1 / E by construction (every slot's weights sum to one), so its
    combine weights are the ones to look at; of a Top-k MoE both tell.
    """
    mass = _check(weights).sum(dim=(0, 1, 3))
    total = mass.sum()
    return mass / total if total > 0 else mass


def dispatch_entropy(dispatch_weights: Tensor) -> float:
    """Mean entropy of what the slots are made of, over log T: 1 all tokens alike, 0 one token a slot.

    Slots that are empty do not count; 0 if all are.
    """
    weights = _check(dispatch_weights)
    return _mean_entropy(weights.flatten(2).transpose(1, 2))


def combine_entropy(combine_weights: Tensor) -> float:
    """Mean entropy of the slots that the tokens come from, over log(E * S): 1 all slots alike, 0 one slot.

    A token's weights are scaled to sum to one; tokens without any do not count; 0 if there are none with.
    """
    return _mean_entropy(_check(combine_weights).flatten(2))


def dropped_token_share(dispatch_weights: Tensor) -> float:
    """Share of the tokens that are in no slot, all of those they were sent to being full."""
    return float((_check(dispatch_weights).sum(dim=(2, 3)) == 0).double().mean())


def _mean_entropy(weights: Tensor) -> float:
    """Mean over the rows (..., N) that have mass of their entropy, in units of log N."""
    mass = weights.sum(dim=-1)
    shares = weights[mass > 0] / mass[mass > 0].unsqueeze(-1)
    if weights.shape[-1] < 2 or not len(shares):
        return 0.0
    return float(-torch.xlogy(shares, shares).sum(dim=-1).mean()) / math.log(weights.shape[-1])
