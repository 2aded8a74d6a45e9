"""Soft mixture of experts (Puigcerver et al., 2023, arXiv 2308.00951) with all experts in one batched matmul.

Shapes: B batch, T tokens, D token width, E experts, S slots of an expert, H hidden units.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.initializers import fan_in_uniform_, lecun_normal_, xavier_uniform_
from models.noisy import LayerNoise


class SoftMoEOutput(NamedTuple):
    """What the layer returns, with what diagnostics look at."""

    tokens: Tensor
    """(B, T, D) combined tokens."""
    dispatch_weights: Tensor
    """(B, T, E, S): softmax over tokens."""
    combine_weights: Tensor
    """(B, T, E, S): softmax over all expert slots."""
    hidden: Tensor
    """(B, E, S, H) hidden activations of the experts."""


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

    def forward(self, slots: Tensor, noise: LayerNoise | None) -> tuple[Tensor, Tensor]:
        """Slots (E, B, S, D) to outputs (E, B, S, D) and hidden activations (E, B, S, H)."""
        num_experts, batch, num_slots, width = slots.shape
        flat = slots.reshape(num_experts, batch * num_slots, width)
        hidden = functional.relu(self._first_layer(flat, batch, noise), inplace=True)
        outputs = torch.baddbmm(self.bias_out, hidden, self.weight_out)
        return outputs.view(slots.shape), hidden.view(num_experts, batch, num_slots, -1)

    def _first_layer(self, flat: Tensor, batch: int, noise: LayerNoise | None) -> Tensor:
        if noise is None or not self.noisy:
            return torch.baddbmm(self.bias_in, flat, self.weight_in)
        noise_in, noise_out = noise.inputs.to(flat.dtype), noise.outputs.to(flat.dtype)
        if (
            len(noise_in) == 1
        ):  # One draw for all rows: these kernels are small, so perturbing them is cheapest.
            weight = torch.addcmul(self.weight_in, self.weight_in_sigma, noise_in.T * noise_out)
            bias = torch.addcmul(self.bias_in, self.bias_in_sigma, noise_out)
            return torch.baddbmm(bias, flat, weight)
        by_row = (len(flat), batch, flat.shape[1] // batch, -1)
        perturbed = (flat.view(by_row) * noise_in.unsqueeze(1)).view(flat.shape)
        means = torch.baddbmm(self.bias_in, flat, self.weight_in)
        changes = torch.baddbmm(self.bias_in_sigma, perturbed, self.weight_in_sigma)
        return torch.addcmul(means.view(by_row), changes.view(by_row), noise_out.unsqueeze(1)).view(
            means.shape
        )


class SoftMoE(nn.Module):
    """Every slot of an expert is a weighted mean of all tokens, every output token one of all slots.

    Slots per expert: ceil(tokens / experts). No normalisation of tokens or phi, as in the reference code of
    arXiv 2402.08609, whose initialisation of phi (lecun normal with fan-in D * E) is kept too.
    """

    def __init__(
        self,
        num_tokens: int,
        width: int,
        *,
        num_experts: int,
        hidden: int,
        generator: torch.Generator,
        sigma: float | None = None,
    ) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.num_slots = -(-num_tokens // num_experts)
        self.phi = nn.Parameter(torch.empty(width, num_experts * self.num_slots))
        lecun_normal_(self.phi, width * num_experts, generator)
        self.experts = Experts(num_experts, width, hidden, generator, sigma)

    def forward(self, tokens: Tensor, noise: LayerNoise | None = None) -> SoftMoEOutput:
        """Tokens (B, T, D) to combined tokens (B, T, D)."""
        batch, num_tokens, width = tokens.shape
        logits = (
            tokens @ self.phi
        ).float()  # A float32 softmax is both more exact and faster than a bfloat16 one.
        dispatch = logits.softmax(dim=1).to(tokens.dtype)
        combine = logits.softmax(dim=2).to(tokens.dtype)
        slots = (dispatch.transpose(1, 2) @ tokens).view(batch, self.num_experts, self.num_slots, width)
        outputs, hidden = self.experts(slots.transpose(0, 1), noise)
        mixed = combine @ outputs.transpose(0, 1).reshape(batch, -1, width)
        shape = (batch, num_tokens, self.num_experts, self.num_slots)
        return SoftMoEOutput(mixed, dispatch.view(shape), combine.view(shape), hidden.transpose(0, 1))
