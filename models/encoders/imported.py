"""A user-supplied encoder (models/imported_module.py says what it must be)."""

from typing import cast

import torch
from torch import Tensor

from models.config import NetworkConfig
from models.imported_module import ImportedModule


class ImportedEncoder(ImportedModule):
    """A user-supplied encoder with the interface of the built-in encoders."""

    def __init__(
        self, config: NetworkConfig, observation_shape: tuple[int, int, int], generator: torch.Generator
    ) -> None:
        super().__init__("encoder", config, (observation_shape[0],), generator)
        self._in_channels = observation_shape[0]
        self.channels = self.probe(observation_shape, (4,))[1]

    def positions(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the feature map for an image of `height` x `width`."""
        shape = self.probe((self._in_channels, height, width), (4,))
        return shape[2], shape[3]

    def forward(self, image: Tensor, scale: float) -> Tensor:
        """Return features (B, C, h, w) of the image (B, K, H, W) times `scale`."""
        return cast(Tensor, self.inner(image * scale))
