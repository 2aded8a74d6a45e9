"""Adam over flat parameters."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from learner.config import LearnerConfig
from learner.flat_parameters import named_views

MOMENTS = ("exp_avg", "exp_avg_sq")


def build_optimizer(flat: Tensor, config: LearnerConfig) -> torch.optim.Adam:
    """Adam (Kingma and Ba, 2015) without weight decay over the flat float32 parameters (see `pack`).

    The fused kernel takes one pass over parameters, gradient and both moments, on the CPU as on a GPU. The
    gradient is allocated here, once: write into `flat.grad`.
    """
    flat.requires_grad_(True)
    flat.grad = torch.zeros_like(flat)
    optimizer = torch.optim.Adam([flat], lr=config.learning_rate, eps=config.adam_eps, fused=True)
    state = optimizer.state[flat]
    state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
    for moment in MOMENTS:
        state[moment] = torch.zeros_like(flat)
    return optimizer


def optimizer_state(optimizer: torch.optim.Adam, network: nn.Module) -> dict[str, Tensor]:
    """Copies of the moments, `exp_avg/<parameter name>` and `exp_avg_sq/...`, and of the `step` count ()."""
    (state,) = optimizer.state.values()
    copies = {"step": state["step"].detach().clone()}
    for moment in MOMENTS:
        for name, view in named_views(network, state[moment]).items():
            copies[f"{moment}/{name}"] = view.contiguous().clone()
    return copies


def restore_optimizer(optimizer: torch.optim.Adam, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_state`; raises KeyError for what is missing, RuntimeError for another shape."""
    (state,) = optimizer.state.values()
    state["step"].copy_(tensors["step"])
    for moment in MOMENTS:
        for name, view in named_views(network, state[moment]).items():
            view.copy_(tensors[f"{moment}/{name}"])
