"""Heads: from tokens (B, T, D) to features (B, F)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.config import HEADS, NetworkConfig, is_imported
from models.mixtures.balancing import LossWeights
from models.mixtures.expert_choice import ExpertChoiceMoE
from models.mixtures.head_output import HeadOutput
from models.mixtures.imported import ImportedHead
from models.mixtures.soft_moe import SoftMoE
from models.mixtures.sparse_moe import TopKMoE
from models.mixtures.tokens import combine_tokens, combined_size
from models.values.linear import build_linear
from models.values.noisy import Noise

Mixture = SoftMoE | TopKMoE | ExpertChoiceMoE


class MoEHead(nn.Module):
    """Passes tokens through a mixture of experts, then combines them.

    With `token_norm` and `residual` it is a block of Puigcerver et al., 2023 (arXiv 2308.00951): x
    + mixture(LayerNorm(x)). Features then contain the position from the start, which similar slots
    would hide.
    """

    def __init__(
        self,
        config: NetworkConfig,
        num_tokens: int,
        width: int,
        *,
        sigma: float | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._combine = config.combine
        self.out_features = combined_size(num_tokens, width, config.combine)
        self.noise_sizes = None if sigma is None else (width, config.hidden_of_an_expert)
        self.norm = nn.LayerNorm(width) if config.token_norm else None
        self.moe = _build_moe(config, num_tokens, width, sigma, generator)
        self.residual = config.residual
        self.router_shape = self.moe.router_shape
        self.phi_shape = self.moe.phi_shape if isinstance(self.moe, SoftMoE) else None

    def forward(self, tokens: Tensor, noise: Noise | None) -> HeadOutput:
        """Map tokens (B, T, D) to features (B, F)."""
        result = self.moe(tokens if self.norm is None else self.norm(tokens), noise)
        # The residual skips the norm, as in the blocks of arXiv 2308.00951.
        leaving = tokens + result.tokens if self.residual else result.tokens
        return HeadOutput(combine_tokens(leaving, self._combine), result.hidden, result)


def _build_moe(
    config: NetworkConfig, num_tokens: int, width: int, sigma: float | None, generator: torch.Generator
) -> Mixture:
    if config.head == "soft_moe":
        return SoftMoE(
            num_tokens,
            width,
            num_experts=config.num_experts,
            hidden=config.hidden_of_an_expert,
            generator=generator,
            sigma=sigma,
            capacity_factor=config.capacity_factor,
            normalize=config.normalize,
            scale=config.normalize_scale,
            phi=config.phi,
        )
    if config.head == "expert_choice":
        return ExpertChoiceMoE(
            num_tokens,
            width,
            num_experts=config.num_experts,
            hidden=config.hidden_of_an_expert,
            generator=generator,
            sigma=sigma,
            capacity_factor=config.capacity_factor,
        )
    return TopKMoE(
        num_tokens,
        width,
        num_experts=config.num_experts,
        hidden=config.hidden_of_an_expert,
        generator=generator,
        sigma=sigma,
        capacity_factor=config.capacity_factor,
        num_selected=config.selected_experts,
        router_noise=config.router_noise,
        loss_weights=LossWeights(
            config.importance_loss_weight, config.load_loss_weight, config.entropy_loss_weight
        ),
    )


class DenseHead(nn.Module):
    """The baseline: combined tokens (flattened, in the baseline) through one hidden layer."""

    router_shape: tuple[int, int] | None = None
    phi_shape: tuple[int, int] | None = None

    def __init__(
        self,
        config: NetworkConfig,
        num_tokens: int,
        width: int,
        *,
        sigma: float | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._combine = config.combine
        self.out_features = config.hidden_of_the_dense_head
        in_features = combined_size(num_tokens, width, config.combine)
        self.noise_sizes = None if sigma is None else (in_features, self.out_features)
        self.hidden = build_linear(in_features, self.out_features, sigma, generator, config.initializer)

    def forward(self, tokens: Tensor, noise: Noise | None) -> HeadOutput:
        """Map tokens (B, T, D) to features (B, H)."""
        vector = combine_tokens(tokens, self._combine)
        hidden = functional.relu(self.hidden(vector, None if noise is None else noise.hidden))
        return HeadOutput(hidden, hidden, None)


class PooledHead(nn.Module):
    """The control without experts: only the combined tokens; it has no parameters."""

    noise_sizes: tuple[int, int] | None = None
    router_shape: tuple[int, int] | None = None
    phi_shape: tuple[int, int] | None = None

    def __init__(self, config: NetworkConfig, num_tokens: int, width: int) -> None:
        super().__init__()
        self._combine = config.combine
        self.out_features = combined_size(num_tokens, width, config.combine)

    def forward(self, tokens: Tensor, noise: Noise | None) -> HeadOutput:
        """Map tokens (B, T, D) to features (B, F)."""
        features = combine_tokens(tokens, self._combine)
        return HeadOutput(features, features, None)


Head = MoEHead | DenseHead | PooledHead | ImportedHead


def build_head(
    config: NetworkConfig,
    num_tokens: int,
    width: int,
    *,
    sigma: float | None,
    generator: torch.Generator,
) -> Head:
    """Build the head that `config` names for tokens (B, `num_tokens`, `width`), noisy if `sigma` is given."""
    if is_imported(config.head):
        return ImportedHead(config, num_tokens, width, generator)
    if config.head not in HEADS:
        raise ValueError(f"head {config.head!r}: must be one of {', '.join(HEADS)} or module:callable")
    if config.head == "pooled":
        return PooledHead(config, num_tokens, width)
    kind = DenseHead if config.head == "dense" else MoEHead
    return kind(config, num_tokens, width, sigma=sigma, generator=generator)
