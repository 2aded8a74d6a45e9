"""Mixture of experts in which every expert chooses its tokens (Zhou et al., 2022, arXiv 2202.09368).

Shapes: B batch, T tokens, D token width, E experts, S slots of an expert, H hidden units.
"""

import torch
from torch import Tensor, nn

from models.initializers import lecun_normal_
from models.mixtures.experts import Experts, slots_per_expert
from models.mixtures.output import MoEOutput
from models.values.noisy import Noise


class ExpertChoiceMoE(nn.Module):
    """Every expert takes the S tokens of a state whose probability of this expert is largest.

    The probabilities are a softmax over experts, computed by a router as a Top-k mixture has it. A
    token's output is the sum of the outputs of the experts that took it, each times its probability
    (not normalised); a token that no expert took has a zero output. All slots are filled, so no
    loss has to balance the experts. Among equal probabilities the token of the lower index is
    taken. The paper's tokens are those of a whole batch; here they are those of one state, as in
    the other mixtures, so that a state's values do not depend on its batch.
    """

    router_shape: tuple[int, int] | None = None

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
    ) -> None:
        super().__init__()
        self.num_experts = num_experts
        # An expert takes a token once, so more slots than tokens would stay empty.
        self.num_slots = min(slots_per_expert(num_tokens, num_experts, capacity_factor), num_tokens)
        self.router = nn.Parameter(torch.empty(width, num_experts))
        lecun_normal_(self.router, width, generator)
        self.experts = Experts(num_experts, width, hidden, generator, sigma)

    def forward(self, tokens: Tensor, noise: Noise | None = None) -> MoEOutput:
        """Map tokens (B, T, D) to combined tokens (B, T, D)."""
        # In float32, because a rounded logit may change who is chosen.
        logits = tokens.float() @ self.router.float()
        probabilities = logits.softmax(dim=2)
        # sort, not topk: only a stable sort defines which of equal probabilities comes first.
        order = probabilities.detach().sort(dim=1, descending=True, stable=True).indices
        chosen = order[:, : self.num_slots].transpose(1, 2).unsqueeze(1)  # (B, 1, E, S)
        token = torch.arange(tokens.shape[1], device=tokens.device).view(1, -1, 1, 1)
        dispatch = (chosen == token).to(tokens.dtype)
        combine = dispatch * probabilities.to(tokens.dtype).unsqueeze(3)
        mixed, hidden = self.experts.mix(tokens, dispatch, combine, None if noise is None else noise.hidden)
        return MoEOutput(mixed, probabilities, dispatch, combine, hidden, None, logits)
