"""The network statistics of the reference code (Dopamine's labs/moes, full Rainbow), under its own names.

They describe the online network after an update, on that update's batch, with the target from before it. Two
of the reference's peculiarities are kept so that its numbers stay comparable: its `td_error_*` are statistics
of the losses, and its `entk_*` describe more than the empirical NTK. Its Jacobian function returns the
network's outputs beside the Jacobian, and the inner products of both are summed. A diagnosis also measures
the kernel alone.
"""

import torch
from torch import Tensor

from learner.config import ScalarLoss
from learner.diagnostics.dormancy import dormant_features, feature_norm, feature_variances
from learner.diagnostics.empirical_ntk import empirical_ntk, sample_gradients
from learner.diagnostics.ranks import count_above, singular_values
from learner.update.losses import sample_losses
from models.mixtures.output import MoEOutput
from models.q_network import NetworkOutput, QNetwork
from models.values.noisy import Noise

THRESHOLDS = (0.0, 0.001, 0.01)


def reference_statistics(
    network: QNetwork,
    observation: Tensor,
    action: Tensor,
    target: Tensor,
    noise: Noise | None = None,
    *,
    loss: ScalarLoss = "huber",
) -> dict[str, float]:
    """Return all statistics, by the reference's names, for observations uint8 (B, K, H, W), B at least 2.

    `action` (B,) int64, `target` (B, Z) or (B,). Ranks at threshold 0 depend on rounding.
    """
    with torch.no_grad():
        output: NetworkOutput = network(observation, noise)
        losses = sample_losses(output, action, target, loss)
    kernel = empirical_ntk(sample_gradients(network, observation, action, target, noise, loss=loss))
    return statistics_of(network, output, losses, kernel)


@torch.no_grad()
def statistics_of(
    network: QNetwork, output: NetworkOutput, losses: Tensor, kernel: Tensor
) -> dict[str, float]:
    """Return the same from given outputs without gradients, losses (B,) and the empirical NTK (B, B), which
    may cover fewer samples, the first ones."""
    variances = feature_variances(output.hidden)
    values = singular_values(features_as_matrices(output.hidden))  # (B, E, min(S, H)) or (min(B, H),)
    statistics = {"feature_norm": feature_norm(variances), "param_norm": squared_norm(network)}
    rows = len(kernel)
    kernel = kernel.double() + outputs_gram(output)[:rows, :rows]
    statistics |= kernel_statistics(kernel)
    spectrum = singular_values(kernel)
    for threshold in THRESHOLDS:
        statistics[f"srank_{threshold}"] = count_above(values, threshold)
        statistics[f"dormant_{threshold}"] = dormant_features(variances, threshold)
        statistics[f"entk_srank_{threshold}"] = count_above(spectrum, threshold)
    for name, sample in (("td_error", losses), ("q", output.q_values)):
        statistics[f"{name}_mean"] = sample.double().mean().item()
    statistics["td_error_var"] = losses.double().var(correction=0).item()
    statistics["q_std"] = output.q_values.double().std(correction=0).item()
    return {name: float(value) for name, value in statistics.items()}


def features_as_matrices(hidden: Tensor) -> Tensor:
    """Return the matrices to take singular values of: for (B, E, S, H) one (S, H) per sample and expert."""
    return hidden if hidden.ndim in (2, 4) else hidden.flatten(1)


def squared_norm(network: QNetwork) -> float:
    """Return the sum of the squares of all parameters; the reference calls it a norm."""
    norms = torch.stack([torch.linalg.vector_norm(parameter) for parameter in network.parameters()])
    return norms.double().square().sum().item()


def kernel_statistics(kernel: Tensor) -> dict[str, float]:
    """Return mean and spread of a kernel's (B, B) diagonal, mean off it, shares of entries by sign."""
    size = len(kernel)
    if kernel.shape != (size, size) or size < 2:
        raise ValueError(f"kernel has shape {tuple(kernel.shape)}, not (B, B) with B at least 2")
    diagonal = kernel.diagonal()
    return {
        "entk_diagonal_mean": diagonal.mean().item(),
        "entk_diagonal_std": diagonal.std(correction=0).item(),
        "entk_off_diagonal_mean": ((kernel.sum() - diagonal.sum()) / (size * (size - 1))).item(),
        "entk_negative_frac": (kernel < 0).double().mean().item(),
        "entk_positive_frac": (kernel > 0).double().mean().item(),
    }


def outputs_gram(output: NetworkOutput) -> Tensor:
    """Return the inner products (B, B) float64 of the samples' outputs that the reference adds to its NTK.

    They cover all arrays that its networks return, which include the experts' activations twice.
    """
    arrays = [output.q_values, output.hidden]
    if output.outputs is not output.q_values:
        # For quantiles as well: the reference's quantile network returns their softmax, which nothing reads.
        arrays += [output.outputs, output.outputs.softmax(dim=-1)]
    if output.moe is not None:
        arrays += [output.moe.tokens, output.moe.hidden, output.moe.router_probabilities]
        arrays += _routing(output.moe)
    rows = [array.float().flatten(1) for array in arrays]
    return torch.stack([row @ row.T for row in rows]).sum(dim=0, dtype=torch.float64)


def _routing(moe: MoEOutput) -> list[Tensor]:
    """Return the rest of what the reference's routers return; zeros are left out.

    For a Soft MoE: the index of the expert with the largest combine weight of each token. For a Top-k MoE:
    its logits, the chosen experts' probabilities and their indices (the reference uses k = 1).
    """
    if moe.router_logits is None:
        return [moe.router_probabilities.argmax(dim=2)]
    weights, experts = moe.router_probabilities.max(dim=2)
    return [moe.router_logits, weights, experts]
