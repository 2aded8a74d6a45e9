"""Encoders of plain convolutions, one after the other: images (B, K, H, W) to feature maps (B, C, h, w)."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.config import Initializer
from models.encoders.convolution import Convolution
from models.geometry import LAYERS, Padding, positions, scaled_channels


class PlainEncoder(nn.Module):
    """Convolutions of `widths` channels times `width_scale`, kernels and strides as in `LAYERS[name]`.

    A ReLU comes after each.
    """

    name: ClassVar[str]
    widths: ClassVar[tuple[int, ...]]

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
        widths = [scaled_channels(width, width_scale) for width in self.widths]
        self.channels = widths[-1]
        layers = zip([in_channels, *widths[:-1]], widths, LAYERS[self.name], strict=True)
        self.convolutions = nn.ModuleList(
            Convolution(
                *(before, after, kernel, stride, padding),
                generator=generator,
                initializer=initializer,
                centered=centered,
            )
            for before, after, (kernel, stride) in layers
        )

    def positions(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the feature map for an image of `height` x `width`."""
        return positions(self.name, height, self._padding), positions(self.name, width, self._padding)

    def forward(self, image: Tensor, scale: float) -> Tensor:
        """Return features (B, C, h, w) of the image (B, K, H, W) times `scale`."""
        features = image
        for index, convolution in enumerate(self.convolutions):
            features = functional.relu(convolution(features, scale if index == 0 else 1.0), inplace=True)
        return features


class NatureEncoder(PlainEncoder):
    """Three convolutions (Mnih et al., 2015)."""

    name, widths = "nature", (32, 64, 64)


class MinAtarEncoder(PlainEncoder):
    """One convolution (Young and Tian, 2019, arXiv 1903.03176): 8x8 positions of a 10x10 game, unpadded."""

    name, widths = "minatar", (16,)
