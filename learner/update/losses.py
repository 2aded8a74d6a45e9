"""Losses and their targets: pure functions of tensors that check shapes first.

Shapes: B batch, A actions, Z atoms or quantiles. Targets must carry no gradient; compute them under
`no_grad`.
"""

from torch import Tensor
from torch.nn import functional

from learner.config import ScalarLoss
from learner.update.quantile_regression import loss_and_slope
from models.q_network import NetworkOutput


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not {shape}")


def next_action(target_q_values: Tensor, online_q_values: Tensor | None = None) -> Tensor:
    """Return the greedy next actions (B,) int64 of values (B, A).

    With `online_q_values` the online network chooses and the target network is left to evaluate the choice:
    double Q-learning (van Hasselt et al., 2016).
    """
    if online_q_values is None:
        return target_q_values.argmax(dim=1)
    _check("online_q_values", online_q_values, tuple(target_q_values.shape))
    return online_q_values.argmax(dim=1)


def of_action(values: Tensor, action: Tensor) -> Tensor:
    """Pick each row's entries for its action (B,) int64: values (B, A) give (B,), (B, A, Z) give (B, Z)."""
    _check("action", action, (len(values),))
    # Not by indexing, whose gradient sorts on a GPU.
    place = action.view(-1, *[1] * (values.dim() - 1)).expand(-1, 1, *values.shape[2:])
    return values.gather(1, place).squeeze(1)


def project(probabilities: Tensor, atoms: Tensor, support: Tensor) -> Tensor:
    """Project distributions on `atoms` (both (B, Z)) onto the evenly spaced `support` (Z,); returns (B, Z).

    Each atom is clipped to the ends of the support and splits its mass between its two neighbours in
    proportion to nearness (Bellemare et al., 2017, arXiv 1707.06887, equation 7).
    """
    batch, num_atoms = probabilities.shape
    _check("atoms", atoms, (batch, num_atoms))
    _check("support", support, (num_atoms,))
    spacing = (support[-1] - support[0]) / (num_atoms - 1)
    clipped = atoms.clamp(support[0], support[-1])
    # (B, Z to, Z from): 1 at the atom itself, falling to 0 at the next atom of the support.
    nearness = (1.0 - (clipped.unsqueeze(1) - support.unsqueeze(1)).abs() / spacing).clamp(0.0, 1.0)
    return (nearness * probabilities.unsqueeze(1)).sum(dim=2)


def c51_target(
    next_logits: Tensor, action: Tensor, reward: Tensor, discount: Tensor, support: Tensor
) -> Tensor:
    """Return the target distribution (B, Z): reward + discount * next distribution, projected.

    `next_logits` (B, A, Z) come from the target network, `action` (B,) is the next action, `reward` and
    `discount` (B,) are float32; a discount of 0 leaves the reward alone.
    """
    batch, _, num_atoms = next_logits.shape
    _check("reward", reward, (batch,))
    _check("discount", discount, (batch,))
    _check("support", support, (num_atoms,))
    probabilities = of_action(next_logits, action).softmax(dim=1)  # (B, Z)
    atoms = reward.unsqueeze(1) + discount.unsqueeze(1) * support  # (B, Z)
    return project(probabilities, atoms, support)


def c51_loss(logits: Tensor, action: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy (B,) of `target` (B, Z) and the `logits` (B, A, Z) of `action` (B,)."""
    batch, _, num_atoms = logits.shape
    _check("target", target, (batch, num_atoms))
    # log_softmax, because a probability that rounds to 0 has no finite logarithm.
    return -(target * of_action(logits, action).log_softmax(dim=1)).sum(dim=1)


def quantile_target(next_quantiles: Tensor, action: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
    """Return the target quantiles (B, Z): reward + discount * the next action's (B,) quantiles (B, A, Z).

    `reward` and `discount` are (B,) float32; with a discount of 0 all Z are the reward.
    """
    batch = len(next_quantiles)
    _check("reward", reward, (batch,))
    _check("discount", discount, (batch,))
    return reward.unsqueeze(1) + discount.unsqueeze(1) * of_action(next_quantiles, action)


def quantile_loss(quantiles: Tensor, action: Tensor, target: Tensor) -> Tensor:
    """Return the quantile Huber loss (B,) of `action`'s (B,) quantiles (B, A, Z) against `target` (B, Z).

    The targets are samples: mean over samples, sum over quantiles, whose probabilities are the midpoints
    (i + 0.5) / Z. Dabney et al., 2018 (arXiv 1710.10044), equations 9 and 10, with kappa 1.
    """
    batch, _, num_quantiles = quantiles.shape
    _check("target", target, (batch, num_quantiles))
    own = of_action(quantiles, action)
    loss, slope = loss_and_slope(own, target)  # (B, Z) float64 each
    # The second term is zero in value and has the slope as its gradient.
    return (loss.to(own.dtype) + slope.to(own.dtype) * (own - own.detach())).sum(dim=1)


def scalar_target(next_q_values: Tensor, action: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
    """Return the target value (B,): reward + discount * the next action's (B,) value in (B, A)."""
    batch = len(next_q_values)
    _check("reward", reward, (batch,))
    _check("discount", discount, (batch,))
    return reward + discount * of_action(next_q_values, action)


def huber_loss(q_values: Tensor, action: Tensor, target: Tensor) -> Tensor:
    """Return the Huber loss (B,), delta 1, between `target` (B,) and the values (B, A) of `action` (B,)."""
    chosen = of_action(q_values, action)
    _check("target", target, tuple(chosen.shape))
    return functional.huber_loss(chosen, target, reduction="none", delta=1.0)


def squared_loss(q_values: Tensor, action: Tensor, target: Tensor) -> Tensor:
    """Return the squared error (B,), without the half, of `action`'s (B,) values (B, A) to `target` (B,)."""
    chosen = of_action(q_values, action)
    _check("target", target, tuple(chosen.shape))
    return (chosen - target).square()


def sample_losses(
    output: NetworkOutput, action: Tensor, target: Tensor, loss: ScalarLoss = "huber"
) -> Tensor:
    """Return the losses (B,) of a network's output: C51's for logits, quantile regression's, else `loss`."""
    if output.logits is not None:
        return c51_loss(output.logits, action, target)
    if output.quantiles is not None:
        return quantile_loss(output.quantiles, action, target)
    return (huber_loss if loss == "huber" else squared_loss)(output.q_values, action, target)


def td_errors(output: NetworkOutput, action: Tensor, target: Tensor, support: Tensor) -> Tensor:
    """Return target minus value of the action, (B,); distributions and quantiles (B, Z) by their mean."""
    if output.logits is not None:
        target = (target * support).sum(dim=1)
    elif output.quantiles is not None:
        target = target.mean(dim=1)
    return target - of_action(output.q_values, action)
