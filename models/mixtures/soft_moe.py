"""Soft mixture of experts (Puigcerver et al., 2023, arXiv 2308.00951).

Shapes: B batch, T tokens, D token width, E experts, S slots of an expert, H hidden units.
"""

import torch
from torch import Tensor, nn

from models.config import Phi
from models.initializers import lecun_normal_
from models.mixtures.experts import Experts, slots_per_expert
from models.mixtures.output import MoEOutput
from models.values.noisy import Noise

NORM_FLOOR = 1e-6
"""Added to a norm before dividing by it, as in the reference code."""


class SoftMoE(nn.Module):
    """Every slot of an expert is a weighted mean of all tokens, every output token one of all slots.

    With `normalize` the logits compare only directions (section 2.3 there): tokens and the columns
    of phi are scaled to unit length, and phi is multiplied by a learned scalar, initially `scale`.
    Phi is initialised as in the reference code of arXiv 2402.08609: lecun normal with fan-in D * E.

    With `phi` fixed it stays so: it gets no gradient, and Adam leaves such a parameter as it is. With
    `phi` redrawn it is no parameter: each pass has its own, (R, D, E * S) unit normals in
    `Noise.phi`; passes without noise (pictures, diagnostics) share one draw, the same in every process.
    """

    phi: Tensor

    def __init__(
        self,
        num_tokens: int,
        width: int,
        *,
        num_experts: int,
        hidden: int,
        generator: torch.Generator,
        sigma: float | None = None,
        capacity_factor: float = 1.0,
        normalize: bool = False,
        scale: float = 1.0,
        phi: Phi = "trained",
    ) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.num_slots = slots_per_expert(num_tokens, num_experts, capacity_factor)
        self.router_shape = None
        shape = (width, num_experts * self.num_slots)
        self.phi_shape = shape if phi == "redrawn" else None
        self._is_fixed = phi == "fixed"
        if phi == "redrawn":
            quiet = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            self.register_buffer("phi", quiet, persistent=False)
        else:
            self.phi = nn.Parameter(torch.empty(shape))
            # In the reference phi is (D, E, S), whose fan-in flax takes to be all but the last axis.
            lecun_normal_(self.phi, width * num_experts, generator)
        self.scale = nn.Parameter(torch.full((1,), scale)) if normalize else None
        self.experts = Experts(num_experts, width, hidden, generator, sigma)

    def forward(self, tokens: Tensor, noise: Noise | None = None) -> MoEOutput:
        """Map tokens (B, T, D) to combined tokens (B, T, D)."""
        # A float32 softmax is both more exact and faster than in bfloat16.
        logits = self._logits(tokens, self._phi_of(noise)).float()
        shape = (*tokens.shape[:2], self.num_experts, self.num_slots)
        dispatch = logits.softmax(dim=1).to(tokens.dtype).view(shape)  # Each slot's weights sum to 1.
        combine = logits.softmax(dim=2).to(tokens.dtype).view(shape)  # Each token's weights sum to 1.
        mixed, hidden = self.experts.mix(tokens, dispatch, combine, None if noise is None else noise.hidden)
        return MoEOutput(mixed, combine.mean(dim=3), dispatch, combine, hidden)

    def _phi_of(self, noise: Noise | None) -> Tensor:
        """Return the phi of a pass, (D, E * S) or (R, D, E * S)."""
        if noise is not None and noise.phi is not None:
            return noise.phi.to(self.phi.dtype)
        return self.phi.detach() if self._is_fixed else self.phi

    def _logits(self, tokens: Tensor, phi: Tensor) -> Tensor:
        """Return the logits (B, T, E * S)."""
        if self.scale is None:
            return tokens @ phi
        return _unit_length(tokens, dim=2) @ (_unit_length(phi, dim=-2) * self.scale)


def _unit_length(vectors: Tensor, dim: int) -> Tensor:
    # The gradient at a zero vector is 0 here and NaN in the reference (decision 0013).
    unit: Tensor = vectors / (torch.linalg.vector_norm(vectors, dim=dim, keepdim=True) + NORM_FLOOR)
    return unit
