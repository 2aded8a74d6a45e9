"""The output of a mixture of experts, whichever way it routes.

Shapes: B batch, T tokens, D token width, E experts, S slots of an expert, H hidden units.
"""

from typing import NamedTuple

from torch import Tensor


class MoEOutput(NamedTuple):
    """Combined tokens, and what diagnostics and pictures read."""

    tokens: Tensor
    """(B, T, D) combined tokens."""
    router_probabilities: Tensor
    """(B, T, E): for a Soft MoE the mean of the combine weights over an expert's slots, for the others
    the router's softmax; both as in the reference code of arXiv 2402.08609."""
    dispatch_weights: Tensor
    """(B, T, E, S), the makeup of a slot: softmax over tokens, or 1 for the token that got the slot."""
    combine_weights: Tensor
    """(B, T, E, S), the makeup of a token: softmax over all slots, or its probability where it got one."""
    hidden: Tensor
    """(B, E, S, H) hidden activations of the experts; slots that no token got count as zeros."""
    auxiliary_loss: Tensor | None = None
    """(B,) float32 weighted sum of the balancing losses of each sample; None if all their weights are 0."""
    router_logits: Tensor | None = None
    """(B, T, E) of a router, before noise and softmax; None for a Soft MoE."""
