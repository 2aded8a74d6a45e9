"""Cut feature maps (B, C, h, w) into tokens (B, T, D) for the experts, and combine tokens into one vector."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.config import Combine, NetworkConfig
from models.encoders.convolution import Convolution


class Tokenizer(nn.Module):
    """Cuts feature maps into tokens in one of the paper's ways (arXiv 2402.08609, section 3.2).

    `grid` holds the rows and columns of the tokens on the feature map, or None if tokens have no
    position: with `shuffle` features all values of the feature map have changed places beforehand, by
    one permutation that is the same in every process and run.
    """

    order: Tensor | None

    def __init__(
        self,
        config: NetworkConfig,
        channels: int,
        positions: tuple[int, int],
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.kind, self.patch_size = config.tokens, config.patch_size
        self.embedding: Convolution | None = None
        self.grid: tuple[int, int] | None = None
        area = positions[0] * positions[1]
        order = None
        if config.shuffle == "features":
            order = torch.randperm(area * channels, generator=torch.Generator().manual_seed(0))
        # Not persistent, and not for the actors: it follows from the configuration.
        self.register_buffer("order", order, persistent=False)
        if config.tokens == "per_patch":
            rows, columns = positions[0] // config.patch_size, positions[1] // config.patch_size
            if not rows or not columns:
                raise ValueError(f"patches of {config.patch_size} positions do not fit on {positions}")
            self.grid, self.num_tokens, self.width = (rows, columns), rows * columns, channels
            if config.patch_embedding == "learned":
                self.width = config.patch_width or channels
                size = config.patch_size
                # lecun, because the reference's embedding has flax's default initializer.
                self.embedding = Convolution(
                    channels, self.width, size, size, "valid", generator=generator, lecun=True
                )
        elif config.tokens == "per_sample":
            self.num_tokens, self.width = 1, area * channels
        elif config.tokens == "per_feature_map":
            self.num_tokens, self.width = channels, area
        else:
            self.grid, self.num_tokens, self.width = positions, area, channels
        if order is not None:
            self.grid = None

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, h, w) to tokens (B, T, D)."""
        if self.order is not None:
            features = features.flatten(1)[:, self.order].view(features.shape)
        if self.kind == "per_feature_map":
            return features.flatten(2)
        if self.kind == "per_sample":
            # (B, 1, h * w * C): positions first, as the reference flattens its (h, w, C).
            return position_tokens(features).flatten(1).unsqueeze(1)
        if self.kind == "per_patch":
            if self.embedding is None:
                features = functional.avg_pool2d(features, self.patch_size)
            else:
                features = cast(Tensor, self.embedding(features))
        return position_tokens(features)


def position_tokens(features: Tensor) -> Tensor:
    """Turn each position into a token, PerConv in arXiv 2402.08609.

    (B, C, h, w) becomes (B, T = h * w, D = C), row by row: a view, without a copy, if the features
    are channels-last.
    """
    return features.flatten(2).transpose(1, 2)


def combine_tokens(tokens: Tensor, how: Combine) -> Tensor:
    """Combine all tokens (B, T, D) into one vector: (B, T * D) flattened, or (B, D) their mean or sum."""
    if how == "flatten":
        return tokens.flatten(1)
    return tokens.mean(dim=1) if how == "mean" else tokens.sum(dim=1)


def combined_size(num_tokens: int, width: int, how: Combine) -> int:
    """Return the length of the vector that `combine_tokens` makes of (B, T, D)."""
    return num_tokens * width if how == "flatten" else width
