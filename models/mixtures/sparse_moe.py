"""Top-k mixture of experts with limited capacity, as the reference code of arXiv 2402.08609 computes it.

Shapes: B batch, T tokens, D token width, E experts, S slots of an expert, H hidden units, k
choices.
"""

import torch
from torch import Tensor, nn

from models.initializers import lecun_normal_
from models.mixtures.balancing import NO_LOSSES, LossWeights, entropy_loss, importance_loss, load_loss
from models.mixtures.experts import Experts, slots_per_expert
from models.mixtures.output import MoEOutput
from models.values.noisy import Noise


class TopKMoE(nn.Module):
    """Every token is sent to its k most probable experts, as long as they have free slots.

    The slots of an expert fill in the order of tokens: first with all first choices, then with all
    second choices. A token's output is the sum of its experts' outputs, each times its probability
    (not normalised over the k). A choice that found no free slot adds nothing, so a token that
    found none has a zero output. Free slots hold zeros. Among equal probabilities the expert of the
    lower index is chosen.
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
        capacity_factor: float = 1.0,
        num_selected: int = 1,
        router_noise: float = 0.0,
        loss_weights: LossWeights = NO_LOSSES,
    ) -> None:
        super().__init__()
        if not 1 <= num_selected <= num_experts:
            raise ValueError(f"{num_selected} selected experts: must be 1 to {num_experts}, the experts")
        self.num_experts, self.num_selected = num_experts, num_selected
        self.num_slots = slots_per_expert(num_tokens, num_experts, capacity_factor)
        self.router_noise, self.loss_weights = router_noise, loss_weights
        draws = router_noise > 0.0 or loss_weights.load > 0.0
        self.router_shape = (num_tokens, num_experts) if draws else None
        self.router = nn.Parameter(torch.empty(width, num_experts))
        lecun_normal_(self.router, width, generator)
        self.experts = Experts(num_experts, width, hidden, generator, sigma)

    def forward(self, tokens: Tensor, noise: Noise | None = None) -> MoEOutput:
        """Map tokens (B, T, D) to combined tokens (B, T, D); `noise.router` None routes without noise."""
        # In float32, because a rounded logit may send a token to another expert.
        logits = tokens.float() @ self.router.float()
        draws = None if noise is None else noise.router
        noisy = logits
        if draws is not None and self.router_noise > 0.0:
            noisy = logits + draws * (self.router_noise / self.num_experts)
        probabilities = noisy.softmax(dim=2)
        chosen, place = self._route(probabilities)
        slot = torch.arange(self.num_slots, device=tokens.device)
        # A place in the queue beyond the last slot equals none: that choice is dropped.
        dispatch = (chosen.unsqueeze(3) & (place.unsqueeze(3) == slot)).to(tokens.dtype)
        combine = dispatch * probabilities.to(tokens.dtype).unsqueeze(3)
        mixed, hidden = self.experts.mix(tokens, dispatch, combine, None if noise is None else noise.hidden)
        loss = self._auxiliary_loss(logits, draws, probabilities, chosen)
        return MoEOutput(mixed, probabilities, dispatch, combine, hidden, loss, logits)

    def _route(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Return who is chosen (B, T, E) bool, and each choice's place in its expert's queue (B, T, E)."""
        # sort, not topk: only a stable sort defines which of equal probabilities comes first.
        order = probabilities.detach().sort(dim=2, descending=True, stable=True).indices
        expert = torch.arange(self.num_experts, device=probabilities.device)
        # (B, k, T, E), so that flattening (k, T) gives the order in which slots are filled.
        choices = order[:, :, : self.num_selected].transpose(1, 2).unsqueeze(3) == expert
        queue = choices.flatten(1, 2).cumsum(dim=1).view(choices.shape) - 1
        # A token chooses an expert at most once, so the sum over k is that choice's place.
        return choices.any(dim=1), (queue * choices).sum(dim=1)

    def _auxiliary_loss(
        self, logits: Tensor, draws: Tensor | None, probabilities: Tensor, chosen: Tensor
    ) -> Tensor | None:
        """Return the (B,) weighted sum of the balancing losses; None if all weights are 0.

        The load loss needs noise: if routing has none, it uses the reference's scale, 1 / E.
        """
        weights = self.loss_weights
        terms = []
        if weights.importance:
            terms.append(weights.importance * importance_loss(probabilities))
        if weights.load:
            std = (self.router_noise or 1.0) / self.num_experts
            noisy = logits if draws is None else logits + draws * std
            terms.append(weights.load * load_loss(logits, noisy, std, self.num_selected))
        if weights.entropy:
            terms.append(weights.entropy * entropy_loss(probabilities, chosen))
        return torch.stack(terms).sum(dim=0) if terms else None
