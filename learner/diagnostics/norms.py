"""Norms of parameters, gradients and updates: pure functions of tensors by parameter name."""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.mixtures.experts import Experts
from models.q_network import QNetwork


def norms_by_part(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the L2 norm of each top-level part of the network (`encoder`, `head`, `output`, ...)."""
    norms: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        norms.setdefault(name.partition(".")[0], []).append(torch.linalg.vector_norm(tensor))
    return {part: torch.linalg.vector_norm(torch.stack(each)).item() for part, each in norms.items()}


def expert_gradient_norms(network: QNetwork, gradients: Mapping[str, Tensor]) -> list[float]:
    """Return the L2 norm of the gradient of each expert's own parameters; empty for a network without any."""
    names = [
        f"{path}.{name}"
        for path, module in network.named_modules()
        if isinstance(module, Experts)
        for name, _ in module.named_parameters()
    ]
    if not names:
        return []
    # (parameters, E), because every parameter of the experts has E first.
    each = torch.stack([torch.linalg.vector_norm(gradients[name].flatten(1), dim=1) for name in names])
    norms: list[float] = torch.linalg.vector_norm(each, dim=0).tolist()
    return norms
