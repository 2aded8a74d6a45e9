"""The residual encoder of Espeholt et al., 2018: images (B, K, H, W) to feature maps (B, C, h, w)."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.config import Initializer
from models.encoders.convolution import Convolution, max_pool
from models.geometry import Padding, positions, scaled_channels


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))); always `same`, so that the shapes of the sum agree."""

    def __init__(self, channels: int, generator: torch.Generator, centered: bool) -> None:
        super().__init__()
        # The reference leaves flax's default initializer, lecun normal, in residual blocks.
        self.first, self.second = (
            Convolution(channels, channels, 3, 1, "same", generator=generator, lecun=True, centered=centered)
            for _ in range(2)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        # The inner ReLU is not in place, because the sum below still needs the features.
        hidden = functional.relu(self.first(functional.relu(features)), inplace=True)
        change: Tensor = self.second(hidden)
        # In place, because the gradient of a convolution does not need its output.
        return change.add_(features)


class ImpalaStack(nn.Module):
    """Convolution, max-pool of stride 2, two residual blocks."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        padding: Padding,
        generator: torch.Generator,
        initializer: Initializer,
        centered: bool,
    ) -> None:
        super().__init__()
        self._padding: Padding = padding
        self.convolution = Convolution(
            *(in_channels, channels, 3, 1, padding),
            generator=generator,
            initializer=initializer,
            centered=centered,
        )
        self.blocks = nn.Sequential(*(ResidualBlock(channels, generator, centered) for _ in range(2)))

    def forward(self, features: Tensor, scale: float) -> Tensor:
        """Map (B, C, h, w) times `scale` to (B, channels, about h/2, about w/2)."""
        features = max_pool(self.convolution(features, scale), self._padding)
        return cast(Tensor, self.blocks(features))


class ImpalaEncoder(nn.Module):
    """Three residual stacks, 16, 32 and 32 channels (Espeholt et al., 2018), times `width_scale`, then ReLU.

    With `valid` padding the stacks' first convolutions and pools are unpadded; residual
    convolutions stay `same`.
    """

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
        first, self.channels = (scaled_channels(width, width_scale) for width in (16, 32))
        widths = ((in_channels, first), (first, self.channels), (self.channels, self.channels))
        self.stacks = nn.ModuleList(
            ImpalaStack(*width, padding, generator, initializer, centered) for width in widths
        )

    def positions(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the feature map for an image of `height` x `width`."""
        return positions("impala", height, self._padding), positions("impala", width, self._padding)

    def forward(self, image: Tensor, scale: float) -> Tensor:
        """Return features (B, C, h, w) of the image (B, K, H, W) times `scale`."""
        features = image
        for index, stack in enumerate(self.stacks):
            features = stack(features, scale if index == 0 else 1.0)
        return functional.relu(features)
