"""What a mixture of experts returns, whichever way it routes.

Shapes: B batch, T tokens, D token width, E experts, S slots of an expert, H hidden units.
"""

from typing import NamedTuple

from torch import Tensor


class MoEOutput(NamedTuple):
    """Combined tokens, and what diagnostics and pictures look at."""

    tokens: Tensor
    """(B, T, D) combined tokens."""
    router_probabilities: Tensor
    """(B, T, E): of a Soft MoE the combine weights' mean over an expert's slots, of a Top-k MoE the router's
    softmax; both as the reference code of arXiv 2402.08609 has them."""
    dispatch_weights: Tensor
    """(B, T, E, S), what a slot is made of: softmax over tokens, or 1 for the token that got the slot."""
    combine_weights: Tensor
    """(B, T, E, S), what a token becomes: softmax over all slots, or its probability where it got one."""
    hidden: Tensor
    """(B, E, S, H) hidden activations of the experts; slots that no token got count as zeros."""
    auxiliary_loss: Tensor | None = None
    """(B,) float32 weighted sum of the balancing losses of each sample; None where none is asked for."""
    router_logits: Tensor | None = None
    """(B, T, E) of a Top-k MoE, before noise and softmax; a Soft MoE has none."""
