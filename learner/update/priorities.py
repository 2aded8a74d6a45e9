"""Raw replay priorities: how surprising each sample of an update was."""

import torch
from torch import Tensor

from learner.config import PriorityKind
from learner.update.losses import td_errors
from models.q_network import NetworkOutput


def sample_priorities(
    kind: PriorityKind,
    output: NetworkOutput,
    action: Tensor,
    target: Tensor,
    sample_losses: Tensor,
    support: Tensor,
) -> Tensor:
    """Return the non-negative raw priorities (B,) of the samples with the losses (B,) given.

    `output`, `action` (B,) and `target` are what the losses were computed from, `support` (Z,) is C51's.
    `loss` is the reference's choice (Dopamine). `kl` subtracts the target's entropy, the lowest possible
    cross-entropy, so that a learned sample has almost no priority. `absolute_td` is the absolute error of the
    mean, as Ape-X's actors send it with new items (Horgan et al., 2018).
    """
    if kind == "loss":
        return sample_losses
    if kind == "kl":
        entropy: Tensor = -torch.xlogy(target, target).sum(dim=1)  # xlogy(0, 0) is 0, not NaN.
        # Rounding can give less than 0, which the replay refuses as a priority.
        return (sample_losses - entropy).clamp(min=0.0)
    return td_errors(output, action, target, support).abs()
