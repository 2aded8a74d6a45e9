"""The encoder of Mnih et al., 2015: images (B, K, H, W) to feature maps (B, C, h, w)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.config import Initializer
from models.encoders.convolution import Convolution
from models.geometry import Padding, positions, scaled_channels


class NatureEncoder(nn.Module):
    """Three convolutions, 32, 64, 64 channels (Mnih et al., 2015), times `width_scale`; ReLU after each."""

    def __init__(
        self,
        in_channels: int,
        padding: Padding,
        generator: torch.Generator,
        width_scale: float = 1.0,
        initializer: Initializer = "xavier",
        centered: bool = False,
    ) -> None:
        super().__init__()
        self._padding: Padding = padding
        first, self.channels = (scaled_channels(width, width_scale) for width in (32, 64))
        layers = (
            (in_channels, first, 8, 4),
            (first, self.channels, 4, 2),
            (self.channels, self.channels, 3, 1),
        )
        self.convolutions = nn.ModuleList(
            Convolution(*layer, padding, generator=generator, initializer=initializer, centered=centered)
            for layer in layers
        )

    def positions(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the feature map for an image of `height` x `width`."""
        return positions("nature", height, self._padding), positions("nature", width, self._padding)

    def forward(self, image: Tensor, scale: float) -> Tensor:
        """Return features (B, C, h, w) of the image (B, K, H, W) times `scale`."""
        features = image
        for index, convolution in enumerate(self.convolutions):
            features = functional.relu(convolution(features, scale if index == 0 else 1.0), inplace=True)
        return features
