"""Adam over flat parameters, split into parts so that each thread can step one."""

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from learner.config import LearnerConfig
from learner.update.flat_parameters import ALIGNMENT, named_views

MOMENTS = ("exp_avg", "exp_avg_sq")
BETAS = (0.9, 0.999)
SLICE = 16_384
"""Elements of a slice on a GPU: a network of 2.5 million parameters then has 150 blocks of threads, where
the kernel's own chunks of 65,536 make 38, on 132 processors."""


class FlatAdam:
    """Adam (Kingma and Ba, 2015) without weight decay over the flat float32 parameters (see `pack`).

    The fused kernel makes one pass over parameters, gradient and both moments, on the CPU as on a GPU. Write
    the gradient into `gradient`, then call `step` once for each part; splitting changes no result.
    """

    def __init__(self, flat: Tensor, config: LearnerConfig, parts: int = 1) -> None:
        """`parts`: a GPU steps all in one launch, and there as many thread blocks as slices are at work."""
        self.gradient = torch.zeros_like(flat)
        self.slices = _slices(len(flat), parts)
        self._eps = config.adam_eps
        self._moments = {moment: torch.zeros_like(flat) for moment in MOMENTS}
        self._parts = [self._tensors_of(flat, part) for part in self.slices]
        # As a tensor on a GPU: a captured update reads a number that may change from its memory.
        self._rate: float | Tensor = config.learning_rate
        if flat.device.type != "cpu":
            self._rate = torch.full((), config.learning_rate, device=flat.device)

    def _tensors_of(self, flat: Tensor, part: slice) -> tuple[list[Tensor], ...]:
        """Return parameters, gradients, both moments and step counts of a part, as the kernel takes them."""
        size = len(flat[part])
        cuts = [slice(0, size)]
        if flat.device.type != "cpu":
            # One block of threads computes so much of a tensor; fewer, longer ones leave processors idle.
            cuts = [slice(start, min(start + SLICE, size)) for start in range(0, size, SLICE)]
        flats = (flat.detach(), self.gradient, *self._moments.values())
        columns = tuple([column[part][cut] for cut in cuts] for column in flats)
        # The fused kernel expects step counts as float32 tensors on the parameters' device.
        return *columns, list(torch.zeros(len(cuts), device=flat.device).unbind())

    def set_learning_rate(self, rate: float) -> None:
        """Use this learning rate from the next step on."""
        if isinstance(self._rate, Tensor):
            self._rate.fill_(rate)
        else:
            self._rate = rate

    def step(self, part: int, spared: Tensor | None = None) -> None:
        """Update the parameters of one part by its gradient, unless `spared` (), float32, is 1."""
        parameters, gradients, exp_avgs, exp_avg_sqs, steps = self._parts[part]
        adam(
            parameters,
            gradients,
            exp_avgs,
            exp_avg_sqs,
            [],
            steps,
            fused=True,
            found_inf=spared,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self._rate,
            weight_decay=0.0,
            eps=self._eps,
            maximize=False,
        )

    def changing(self) -> list[Tensor]:
        """Return the gradient and all that a step changes besides the parameters: moments and step counts."""
        return [self.gradient, *self._moments.values(), *self._steps()]

    def forget(self, where: Tensor) -> None:
        """Set the moments to zero where the flat bool mask (P,) says so."""
        for moment in self._moments.values():
            moment.masked_fill_(where, 0.0)

    def state(self, network: nn.Module) -> dict[str, Tensor]:
        """Copy the moments, `exp_avg/<parameter>` and `exp_avg_sq/<parameter>`, and `step` (), to the CPU.

        The moments are views of flat copies, so that taking them is short.
        """
        copies = {"step": self._steps()[0].detach().cpu().clone()}
        for moment, flat in self._moments.items():
            views = named_views(network, flat.to("cpu", copy=True))
            copies |= {f"{moment}/{name}": view for name, view in views.items()}
        return copies

    def restore(self, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Load what `state` returned; KeyError for a missing tensor, RuntimeError for another shape."""
        for step in self._steps():
            step.copy_(tensors["step"])
        # Copied in place, because the parts are views of these tensors.
        for moment, flat in self._moments.items():
            for name, view in named_views(network, flat).items():
                view.copy_(tensors[f"{moment}/{name}"])

    def _steps(self) -> list[Tensor]:
        return [step for *_, steps in self._parts for step in steps]


def _slices(size: int, parts: int) -> list[slice]:
    """Return `parts` aligned slices of about equal length that cover 0 to `size`."""
    cuts = [size * part // parts // ALIGNMENT * ALIGNMENT for part in range(parts)] + [size]
    return [slice(start, stop) for start, stop in itertools.pairwise(cuts)]


def clipping(norm: Tensor, max_norm: float) -> Tensor:
    """Return the factor () that brings a gradient of the L2 norm () given down to `max_norm`."""
    # Of a norm of 0 the quotient is infinite: nothing is clipped.
    return (max_norm / norm).clamp(max=1.0)
