"""Experts as one batched matmul, with the routing of tokens into their slots and back.

Shapes: B batch, T tokens, D token width, E experts, S slots of an expert, H hidden units.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.initializers import fan_in_uniform_, xavier_uniform_
from models.values.noisy import LayerNoise


def slots_per_expert(num_tokens: int, num_experts: int, capacity_factor: float) -> int:
    """Return S: ceil(capacity_factor * T / E), at least 1 for any positive factor."""
    return math.ceil(num_tokens * capacity_factor / num_experts)


class Experts(nn.Module):
    """E independent networks, Linear(H) ReLU Linear(D); the first layer may be noisy, as in the reference."""

    def __init__(
        self,
        num_experts: int,
        width: int,
        hidden: int,
        generator: torch.Generator,
        sigma: float | None = None,
    ) -> None:
        super().__init__()
        self.weight_in = nn.Parameter(torch.empty(num_experts, width, hidden))
        self.bias_in = nn.Parameter(torch.zeros(num_experts, 1, hidden))
        self.weight_out = nn.Parameter(torch.empty(num_experts, hidden, width))
        self.bias_out = nn.Parameter(torch.zeros(num_experts, 1, width))
        self.noisy = sigma is not None
        if sigma is None:
            xavier_uniform_(self.weight_in, width, hidden, generator)
        else:
            fan_in_uniform_(self.weight_in, width, generator)
            fan_in_uniform_(self.bias_in, width, generator)
            scale = sigma / math.sqrt(width)
            self.weight_in_sigma = nn.Parameter(torch.full((num_experts, width, hidden), scale))
            self.bias_in_sigma = nn.Parameter(torch.full((num_experts, 1, hidden), scale))
        xavier_uniform_(self.weight_out, hidden, width, generator)

    def mix(
        self, tokens: Tensor, dispatch: Tensor, combine: Tensor, noise: LayerNoise | None
    ) -> tuple[Tensor, Tensor]:
        """Route tokens (B, T, D) through the experts: combined tokens (B, T, D) and hidden (B, E, S, H).

        `dispatch` and `combine` are weights (B, T, E, S) in the tokens' dtype. One-hot weights cost
        as much as soft weights, and a matmul by them is exact: no gather, no scatter, no size that
        depends on the data.
        """
        batch, _, num_experts, num_slots = dispatch.shape
        # (B, E * S, T) @ (B, T, D), viewed as (B, E, S, D).
        slots = (dispatch.flatten(2).transpose(1, 2) @ tokens).view(batch, num_experts, num_slots, -1)
        # Experts first: one batched matmul takes each expert's slots through its own kernel.
        outputs, hidden = self(slots.transpose(0, 1), noise)
        # (B, T, E * S) @ (B, E * S, D).
        mixed = combine.flatten(2) @ outputs.transpose(0, 1).reshape(batch, num_experts * num_slots, -1)
        return mixed, hidden.transpose(0, 1)

    def forward(self, slots: Tensor, noise: LayerNoise | None) -> tuple[Tensor, Tensor]:
        """Map slots (E, B, S, D) to outputs (E, B, S, D) and hidden activations (E, B, S, H)."""
        num_experts, batch, num_slots, width = slots.shape
        flat = slots.reshape(num_experts, batch * num_slots, width)
        hidden = functional.relu(self._first_layer(flat, batch, noise), inplace=True)
        outputs = torch.baddbmm(self.bias_out, hidden, self.weight_out)
        return outputs.view(slots.shape), hidden.view(num_experts, batch, num_slots, -1)

    def _first_layer(self, flat: Tensor, batch: int, noise: LayerNoise | None) -> Tensor:
        if noise is None or not self.noisy:
            return torch.baddbmm(self.bias_in, flat, self.weight_in)
        noise_in, noise_out = noise.inputs.to(flat.dtype), noise.outputs.to(flat.dtype)
        if len(noise_in) == 1:
            # One draw for all rows: the kernels are small, so perturbing them is cheapest.
            weight = torch.addcmul(self.weight_in, self.weight_in_sigma, noise_in.T * noise_out)
            bias = torch.addcmul(self.bias_in, self.bias_in_sigma, noise_out)
            return torch.baddbmm(bias, flat, weight)
        # One draw per row: scale inputs and outputs instead, so that no kernel is built per row.
        by_row = (len(flat), batch, flat.shape[1] // batch, -1)
        perturbed = (flat.view(by_row) * noise_in.unsqueeze(1)).view(flat.shape)
        means = torch.baddbmm(self.bias_in, flat, self.weight_in)
        changes = torch.baddbmm(self.bias_in_sigma, perturbed, self.weight_in_sigma)
        mixed = torch.addcmul(means.view(by_row), changes.view(by_row), noise_out.unsqueeze(1))
        return mixed.view(means.shape)
