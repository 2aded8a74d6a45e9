"""The empirical neural tangent kernel of a batch: how much the gradients of its samples align.

K[i, j] is the inner product of the gradients of sample i's and sample j's loss over all parameters. A matrix
of all samples' gradients would take gigabytes, nearly all of it for kernels of layers that see one vector per
sample. The gradient of such a kernel is an outer product of the layer's input and the gradient of its bias,
and these two suffice for its part of K.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from learner.config import ScalarLoss
from learner.update.losses import sample_losses
from models.q_network import NetworkOutput, QNetwork
from models.values.noisy import Noise

MAX_NUMBERS = 128 * 1024**2
"""Float32 numbers that `max_samples` allows the gradients of all samples to take (512 MiB)."""


@dataclass(frozen=True)
class SampleGradients:
    """Gradients of the losses of B samples: whole for most parameters, as factors for large kernels."""

    num_samples: int
    rows: dict[str, Tensor] = field(default_factory=dict)
    """(B, P) by parameter name; parameters that no loss depends on are left out."""
    factors: dict[str, tuple[Tensor, str]] = field(default_factory=dict)
    """By kernel name: the layer's inputs (B, in) and its bias's name, whose rows are the other factor."""

    def put(self, name: str, sample: int, gradient: Tensor) -> None:
        """Store one sample's gradient of one parameter."""
        if name not in self.rows:
            self.rows[name] = gradient.new_zeros(self.num_samples, gradient.numel())
        self.rows[name][sample] = gradient.flatten()

    def put_factor(self, name: str, sample: int, inputs: Tensor, bias: str) -> None:
        """Store one sample's input to the layer of a kernel, and the name of the layer's bias."""
        if name not in self.factors:
            self.factors[name] = (inputs.new_zeros(self.num_samples, inputs.numel()), bias)
        self.factors[name][0][sample] = inputs.flatten()

    @classmethod
    def join(cls, parts: Sequence["SampleGradients"]) -> "SampleGradients":
        """Join the gradients of a batch's shares, in order."""
        joined = cls(sum(part.num_samples for part in parts))
        # A dict, not a set, keeps the order of the sum over parameters, and so its rounding.
        for name in {name: None for part in parts for name in part.rows}:
            joined.rows[name] = torch.cat([part._rows_of(name, parts) for part in parts])
        for name, (_, bias) in parts[0].factors.items():
            joined.factors[name] = (torch.cat([part.factors[name][0] for part in parts]), bias)
        return joined

    def _rows_of(self, name: str, parts: Sequence["SampleGradients"]) -> Tensor:
        if name in self.rows:
            return self.rows[name]
        like = next(part.rows[name] for part in parts if name in part.rows)
        return like.new_zeros(self.num_samples, like.shape[1])


def sample_gradients(
    network: QNetwork,
    observation: Tensor,
    action: Tensor,
    target: Tensor,
    noise: Noise | None = None,
    *,
    loss: ScalarLoss = "huber",
) -> SampleGradients:
    """Compute the gradient of each sample's loss, for a network whose parameters all require gradients.

    `observation` uint8 (B, K, H, W), `action` (B,) int64, `target` (B, Z) or (B,), `noise` one draw for all.
    Runs one forward and backward pass per sample: slower than one vectorised pass, but it demands nothing of
    the layers, which may be a user's own. Threads may share a network.
    """
    names = {parameter: name for name, parameter in network.named_parameters()}
    gradients = SampleGradients(len(action))
    for i in range(len(action)):
        sample = slice(i, i + 1)
        with torch.enable_grad(), _VectorLayers() as layers:
            output: NetworkOutput = network(observation[sample], noise)
            losses = sample_losses(output, action[sample], target[sample], loss)
        whole = [parameter for parameter in names if parameter not in layers.inputs]
        for parameter, gradient in zip(
            whole, torch.autograd.grad(losses.sum(), whole, allow_unused=True), strict=True
        ):
            if gradient is not None:
                gradients.put(names[parameter], i, gradient)
        for weight, (inputs, bias) in layers.inputs.items():
            gradients.put_factor(names[weight], i, inputs, names[bias])
    return gradients


def empirical_ntk(gradients: SampleGradients) -> Tensor:
    """Return the kernel (B, B): inner products of all pairs of samples' gradients, over all parameters.

    Jacot et al., 2018 (arXiv 1806.07572) for the kernel; taken of the losses, as in the reference code of
    arXiv 2402.08609, it is the gradient covariance of Lyle et al., 2022 (arXiv 2206.02126), not normalised.
    """
    kernel = torch.zeros(())
    for rows in gradients.rows.values():
        kernel = kernel.to(rows.device) + rows @ rows.T
    for inputs, bias in gradients.factors.values():
        outputs = gradients.rows[bias]
        # For outer products, <g x', h y'> = (x . y)(g . h): no gradient of a kernel is ever built.
        kernel = kernel + (inputs @ inputs.T) * (outputs @ outputs.T)
    return kernel


def max_samples(network: nn.Module) -> int:
    """Return how many samples' gradients fit in MAX_NUMBERS: at least 2, 32 and more for most networks."""
    # Matrices are kernels of vector layers, kept as factors, or small ones of the router.
    stored = sum(parameter.numel() for parameter in network.parameters() if parameter.ndim != 2)
    return max(2, MAX_NUMBERS // max(stored, 1))


class _VectorLayers(TorchFunctionMode):
    """While active, records the input of every linear layer of this thread that maps a single vector."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: dict[nn.Parameter, tuple[Tensor, nn.Parameter]] = {}
        """By the layer's kernel: its input and its bias."""
        self._seen: set[nn.Parameter] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`; record the factors of its kernel's gradient."""
        if func is functional.linear and len(args) == 3 and args[0].numel() == args[0].shape[-1]:
            inputs, weight, bias = args
            shared = weight in self._seen or bias in self._seen
            self._seen |= {weight, bias}
            if shared:  # Its gradient is a sum of outer products, which two factors cannot hold.
                self.inputs = {
                    w: pair for w, pair in self.inputs.items() if w is not weight and pair[1] is not bias
                }
            elif isinstance(weight, nn.Parameter) and isinstance(bias, nn.Parameter):
                self.inputs[weight] = (inputs.detach(), bias)
        return func(*args, **(kwargs or {}))
