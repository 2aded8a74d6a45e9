"""Parts that the slow float64 versions of the mixtures of experts share."""

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from models.mixtures.experts import Experts
from models.values.noisy import Noise


def randomise(layer: nn.Module, generator: torch.Generator) -> nn.Module:
    """The layer with experts' biases that are not zero and a scale that is not one, so that they count."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "bias" in name or name == "scale":
                parameter.uniform_(-1, 1, generator=generator)
    return layer


def expert_output(layer: nn.Module, expert: int, slot: Tensor, noise: Noise | None, sample: int) -> Tensor:
    """Compute one expert's output for one slot (D,) of one sample, by plain matrices."""
    experts = cast(Experts, layer.experts)
    weight, bias = experts.weight_in[expert], experts.bias_in[expert, 0]
    if noise is not None and noise.hidden is not None:
        noise_in, noise_out = (part[sample % len(part)].double() for part in noise.hidden)
        weight = weight + experts.weight_in_sigma[expert] * torch.outer(noise_in, noise_out)
        bias = bias + experts.bias_in_sigma[expert, 0] * noise_out
    return (slot @ weight + bias).clamp(min=0) @ experts.weight_out[expert] + experts.bias_out[expert, 0]


def assert_same_gradients(
    fast: nn.Module,
    exact: nn.Module,
    tokens: Tensor,
    run_fast: Callable[[nn.Module, Tensor], Tensor],
    run_exact: Callable[[nn.Module, Tensor], Tensor],
) -> None:
    """Outputs, and gradients of a random projection, of a float32 layer and of its float64 twin agree."""
    exact = copy.deepcopy(exact).double()
    inputs, exact_inputs = tokens.clone().requires_grad_(), tokens.double().requires_grad_()
    actual, expected = run_fast(fast, inputs), run_exact(exact, exact_inputs)
    torch.testing.assert_close(actual, expected.float(), atol=1e-5, rtol=1e-4)
    direction = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1))
    torch.autograd.backward((actual * direction).sum())
    torch.autograd.backward((expected * direction.double()).sum())
    pairs = [("tokens", inputs, exact_inputs)]
    pairs += [(n, p, q) for (n, p), q in zip(fast.named_parameters(), exact.parameters(), strict=True)]
    for name, parameter, other in pairs:
        zeros = torch.zeros_like(other)
        grad = parameter.grad if parameter.grad is not None else zeros.float()
        other_grad = other.grad if other.grad is not None else zeros
        torch.testing.assert_close(grad, other_grad.float(), atol=1e-5, rtol=1e-3, msg=name)
