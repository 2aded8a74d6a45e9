"""A user-supplied head (models/imported_module.py says what it must be)."""

from typing import Any, cast

import torch
from torch import Tensor

from models.config import NetworkConfig
from models.imported_module import ImportedModule
from models.mixtures.head_output import HeadOutput
from models.mixtures.tokens import combine_tokens, combined_size
from models.values.noisy import Noise


class ImportedHead(ImportedModule):
    """A user-supplied head with the interface of the built-in heads."""

    noise_sizes: tuple[int, int] | None = None
    router_shape: tuple[int, int] | None = None
    phi_shape: tuple[int, int] | None = None

    def __init__(
        self, config: NetworkConfig, num_tokens: int, width: int, generator: torch.Generator
    ) -> None:
        super().__init__("head", config, (num_tokens, width), generator)
        self._combine = config.combine
        shape: tuple[Any, ...] = self.probe((num_tokens, width), (2, 3))
        is_vector = len(shape) == 2
        self.out_features = int(shape[1] if is_vector else combined_size(shape[1], shape[2], config.combine))

    def forward(self, tokens: Tensor, noise: Noise | None) -> HeadOutput:
        """Map tokens (B, T, D) to features (B, F)."""
        result = cast(Tensor, self.inner(tokens))
        features = result if result.ndim == 2 else combine_tokens(result, self._combine)
        return HeadOutput(features, features, None)
