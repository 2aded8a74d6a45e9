"""What stands between the tokens and the values: a head, then the output layer."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.balancing import LossWeights
from models.config import HEADS, Initializer, NetworkConfig, is_imported
from models.head_output import HeadOutput
from models.imported import ImportedHead
from models.initializers import initialize_
from models.noisy import LayerNoise, Noise, NoisyLinear
from models.soft_moe import SoftMoE
from models.sparse_moe import TopKMoE
from models.tokens import combine_tokens, combined_size


class Linear(nn.Module):
    """Dense layer with zero bias, with the call signature of `NoisyLinear`."""

    def __init__(
        self, in_features: int, out_features: int, generator: torch.Generator, initializer: Initializer
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        initialize_(self.weight, in_features, out_features, generator, initializer)

    def forward(self, inputs: Tensor, noise: LayerNoise | None = None) -> Tensor:
        """(B, in) to (B, out), in the dtype of the inputs; there is no noise to use."""
        return functional.linear(inputs, self.weight.to(inputs.dtype), self.bias.to(inputs.dtype))


def build_linear(
    in_features: int,
    out_features: int,
    sigma: float | None,
    generator: torch.Generator,
    initializer: Initializer,
) -> Linear | NoisyLinear:
    """A noisy layer where `sigma` is given, else a plain one."""
    if sigma is None:
        return Linear(in_features, out_features, generator, initializer)
    return NoisyLinear(in_features, out_features, sigma, generator)


class MoEHead(nn.Module):
    """Tokens through a mixture of experts, then combined.

    With `token_norm` and `residual` as a block of Puigcerver et al., 2023 (arXiv 2308.00951) has it: x +
    mixture(LayerNorm(x)). Then position is in the features from the start, which slots that are alike hide.
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

    def forward(self, tokens: Tensor, noise: Noise | None) -> HeadOutput:
        """Tokens (B, T, D) to features (B, F)."""
        result = self.moe(tokens if self.norm is None else self.norm(tokens), noise)
        leaving = tokens + result.tokens if self.residual else result.tokens
        return HeadOutput(combine_tokens(leaving, self._combine), result.hidden, result)


def _build_moe(
    config: NetworkConfig, num_tokens: int, width: int, sigma: float | None, generator: torch.Generator
) -> SoftMoE | TopKMoE:
    sizes = (config.num_experts, config.hidden_of_an_expert, config.capacity_factor)
    num_experts, hidden, capacity_factor = sizes
    if config.head == "soft_moe":
        return SoftMoE(
            num_tokens,
            width,
            num_experts=num_experts,
            hidden=hidden,
            generator=generator,
            sigma=sigma,
            capacity_factor=capacity_factor,
            normalize=config.normalize,
            scale=config.normalize_scale,
        )
    return TopKMoE(
        num_tokens,
        width,
        num_experts=num_experts,
        hidden=hidden,
        generator=generator,
        sigma=sigma,
        capacity_factor=capacity_factor,
        num_selected=config.selected_experts,
        router_noise=config.router_noise,
        loss_weights=LossWeights(
            config.importance_loss_weight, config.load_loss_weight, config.entropy_loss_weight
        ),
    )


class DenseHead(nn.Module):
    """The baseline: combined tokens (flattened, in the baseline) through one hidden layer."""

    router_shape: tuple[int, int] | None = None

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
        """Tokens (B, T, D) to features (B, H)."""
        vector = combine_tokens(tokens, self._combine)
        hidden = functional.relu(self.hidden(vector, None if noise is None else noise.hidden))
        return HeadOutput(hidden, hidden, None)


class PooledHead(nn.Module):
    """The control without experts: nothing but the combined tokens; it has no parameters."""

    noise_sizes: tuple[int, int] | None = None
    router_shape: tuple[int, int] | None = None

    def __init__(self, config: NetworkConfig, num_tokens: int, width: int) -> None:
        super().__init__()
        self._combine = config.combine
        self.out_features = combined_size(num_tokens, width, config.combine)

    def forward(self, tokens: Tensor, noise: Noise | None) -> HeadOutput:
        """Tokens (B, T, D) to features (B, F)."""
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
    """The head that `config` names, for tokens (B, `num_tokens`, `width`); noisy where `sigma` is given."""
    if is_imported(config.head):
        return ImportedHead(config, num_tokens, width, generator)
    if config.head not in HEADS:
        raise ValueError(f"head {config.head!r}: must be one of {', '.join(HEADS)} or module:callable")
    if config.head == "pooled":
        return PooledHead(config, num_tokens, width)
    kind = DenseHead if config.head == "dense" else MoEHead
    return kind(config, num_tokens, width, sigma=sigma, generator=generator)


class OutputLayer(nn.Module):
    """Features (B, F) to (B, A, Z), one linear map; Z (`num_atoms`) counts atoms, quantiles, or is 1.

    With dueling streams (Wang et al., 2016) the first Z outputs are the state's value and the rest the
    advantages; the streams have no hidden layer of their own, and share the noise of their inputs, as in the
    reference code.
    """

    def __init__(
        self,
        in_features: int,
        num_actions: int,
        num_atoms: int,
        *,
        dueling: bool,
        sigma: float | None,
        generator: torch.Generator,
        initializer: Initializer,
    ) -> None:
        super().__init__()
        self.dueling = dueling
        self.num_atoms = num_atoms
        out_features = (num_actions + dueling) * num_atoms
        self.noise_sizes = None if sigma is None else (in_features, out_features)
        self.linear = build_linear(in_features, out_features, sigma, generator, initializer)
        if dueling and sigma is None:
            # Two kernels of different fan-out, as two separate layers would have them.
            for part in torch.split(self.linear.weight, [num_atoms, num_actions * num_atoms]):
                initialize_(part, in_features, len(part), generator, initializer)

    def forward(self, features: Tensor, noise: LayerNoise | None) -> Tensor:
        """(B, F) to float32 (B, A, Z).

        A single number an action is computed in float32: bfloat16 has steps of 0.008 between 1 and 2, and
        actions whose values differ by less would be the same. Means over atoms or quantiles are fine enough.
        """
        inputs = features.float() if self.num_atoms == 1 else features
        outputs: Tensor = self.linear(inputs, noise).float().view(len(features), -1, self.num_atoms)
        if not self.dueling:
            return outputs
        value, advantage = outputs[:, :1], outputs[:, 1:]
        return value + advantage - advantage.mean(dim=1, keepdim=True)
