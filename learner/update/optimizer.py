"""Adam over flat parameters, split into parts so that each thread can step one."""

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from learner.config import LearnerConfig
from learner.update.flat_parameters import ALIGNMENT, named_views

MOMENTS = ("exp_avg", "exp_avg_sq")


class FlatAdam:
    """Adam (Kingma and Ba, 2015) without weight decay over the flat float32 parameters (see `pack`).

    The fused kernel makes one pass over parameters, gradient and both moments, on the CPU as on a GPU. Write
    the gradient into `gradient`, then call `step` once for each part; splitting changes no result.
    """

    def __init__(self, flat: Tensor, config: LearnerConfig, parts: int = 1) -> None:
        self.gradient = torch.zeros_like(flat)
        self.slices = _slices(len(flat), parts)
        self._moments = {moment: torch.zeros_like(flat) for moment in MOMENTS}
        self._optimizers = [self._build(flat, part, config) for part in self.slices]

    def _build(self, flat: Tensor, part: slice, config: LearnerConfig) -> torch.optim.Adam:
        parameter = flat[part].detach().requires_grad_(True)
        parameter.grad = self.gradient[part]
        optimizer = torch.optim.Adam([parameter], lr=config.learning_rate, eps=config.adam_eps, fused=True)
        state = optimizer.state[parameter]
        # The fused kernel expects the step count as a float32 tensor on the parameters' device.
        state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
        # Views of the flat moments, so that saving and restoring need not know about the parts.
        for moment in MOMENTS:
            state[moment] = self._moments[moment][part]
        return optimizer

    def set_learning_rate(self, rate: float) -> None:
        """Use this learning rate from the next step on."""
        for optimizer in self._optimizers:
            optimizer.param_groups[0]["lr"] = rate

    def step(self, part: int) -> None:
        """Update the parameters of one part by its gradient."""
        self._optimizers[part].step()

    def forget(self, where: Tensor) -> None:
        """Set the moments to zero where the flat bool mask (P,) says so."""
        for moment in self._moments.values():
            moment.masked_fill_(where, 0.0)

    def state(self, network: nn.Module) -> dict[str, Tensor]:
        """Copy the moments, `exp_avg/<parameter>` and `exp_avg_sq/<parameter>`, and `step` ()."""
        copies = {"step": self._steps()[0].detach().cpu().clone()}
        for moment, flat in self._moments.items():
            for name, view in named_views(network, flat).items():
                copies[f"{moment}/{name}"] = view.cpu().contiguous().clone()
        return copies

    def restore(self, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Load what `state` returned; KeyError for a missing tensor, RuntimeError for another shape."""
        for step in self._steps():
            step.copy_(tensors["step"])
        # Copied in place, because the optimizers hold views of these tensors.
        for moment, flat in self._moments.items():
            for name, view in named_views(network, flat).items():
                view.copy_(tensors[f"{moment}/{name}"])

    def _steps(self) -> list[Tensor]:
        return [state["step"] for optimizer in self._optimizers for state in optimizer.state.values()]


def _slices(size: int, parts: int) -> list[slice]:
    """Return `parts` aligned slices of about equal length that cover 0 to `size`."""
    cuts = [size * part // parts // ALIGNMENT * ALIGNMENT for part in range(parts)] + [size]
    return [slice(start, stop) for start, stop in itertools.pairwise(cuts)]


def clipping(max_norm: float, gradients: Sequence[Tensor]) -> float:
    """Factor that brings the L2 norm of a gradient, the sum of flat parts (P,), down to `max_norm`.

    1 for a smaller norm, and for `max_norm` 0.
    """
    if not max_norm:
        return 1.0
    # The parts are summed first: their norms do not give the norm of the sum. In float32, as for Adam's step,
    # because the norm of bfloat16 parts would be rounded to 8 bits.
    total = gradients[0].float()
    for gradient in gradients[1:]:
        total = total + gradient
    norm = torch.linalg.vector_norm(total).item()
    return min(1.0, max_norm / norm) if norm > 0 else 1.0
