"""Convolutional encoders: uint8 observations (B, K, H, W) to feature maps (B, C, h, w)."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.config import Initializer
from models.geometry import Padding, positions, same_padding, scaled_channels
from models.initializers import initialize_, lecun_normal_


class Convolution(nn.Module):
    """Square convolution with `same` (XLA's) or `valid` padding, and its own generator at birth.

    Kernels are as `initialize_` has them, or with `lecun` lecun normal: what the reference code has where it
    names none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        padding: Padding,
        *,
        generator: torch.Generator,
        lecun: bool = False,
        initializer: Initializer = "xavier",
    ) -> None:
        super().__init__()
        self._kernel, self._stride, self._same = kernel, stride, padding == "same"
        weight = torch.empty(out_channels, in_channels, kernel, kernel)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        area = kernel * kernel
        if lecun:
            lecun_normal_(self.weight, area * in_channels, generator)
        else:
            fans = (area * in_channels, area * out_channels)
            initialize_(self.weight, *fans, generator, initializer)

    def forward(self, features: Tensor, scale: float = 1.0) -> Tensor:
        """Convolve (B, C, h, w) times `scale`, which goes into the small kernel, not over the large image."""
        weight = self.weight if scale == 1.0 else self.weight * scale
        if not self._same:
            return functional.conv2d(features, weight, self.bias, self._stride)
        top, bottom = same_padding(features.shape[2], self._kernel, self._stride)
        left, right = same_padding(features.shape[3], self._kernel, self._stride)
        if top != bottom or left != right:
            features = functional.pad(features, (left, right, top, bottom))
            top = left = 0
        return functional.conv2d(features, weight, self.bias, self._stride, (top, left))


def max_pool(features: Tensor, padding: Padding) -> Tensor:
    """3x3 maximum with stride 2 over (B, C, h, w); `same` pads as `same_padding`, with -inf."""
    if padding == "valid":
        return functional.max_pool2d(features, 3, 2)
    if features.device.type == "cpu" and not features.requires_grad:
        return _max_of_three(_max_of_three(features, 2), 3)
    # ceil_mode lets the last window hang over by one: the padding (0, 1) of an even size without a copy.
    odd = (features.shape[2] % 2, features.shape[3] % 2)
    return functional.max_pool2d(features, 3, 2, padding=odd, ceil_mode=True)


def _max_of_three(features: Tensor, dim: int) -> Tensor:
    """The pooling of one axis, made of element-wise maxima: half the time of `max_pool2d` on a CPU."""
    even, odd = (features[(slice(None),) * dim + (slice(start, None, 2),)] for start in (0, 1))
    pairs = odd.shape[dim]
    if even.shape[dim] == pairs:  # Windows 0..2, 2..4, ...; the last one hangs over.
        result = torch.maximum(even, odd)
        inner = result.narrow(dim, 0, pairs - 1)
        torch.maximum(inner, even.narrow(dim, 1, pairs - 1), out=inner)
        return result
    result = even.clone()  # Windows -1..1, 1..3, ...; the first and the last one hang over.
    for start in (0, 1):
        inner = result.narrow(dim, start, pairs)
        torch.maximum(inner, odd, out=inner)
    return result


class NatureEncoder(nn.Module):
    """Three convolutions, 32, 64, 64 channels (Mnih et al., 2015), times `width_scale`; ReLU after each."""

    def __init__(
        self,
        in_channels: int,
        padding: Padding,
        generator: torch.Generator,
        width_scale: float = 1.0,
        initializer: Initializer = "xavier",
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
            Convolution(*layer, padding, generator=generator, initializer=initializer) for layer in layers
        )

    def positions(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the feature map for an image of `height` x `width`."""
        return positions("nature", height, self._padding), positions("nature", width, self._padding)

    def forward(self, image: Tensor, scale: float) -> Tensor:
        """Features (B, C, h, w) of the image (B, K, H, W) times `scale`."""
        features = image
        for index, convolution in enumerate(self.convolutions):
            features = functional.relu(convolution(features, scale if index == 0 else 1.0), inplace=True)
        return features


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))); always `same`, so that the sum fits."""

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = Convolution(channels, channels, 3, 1, "same", generator=generator, lecun=True)
        self.second = Convolution(channels, channels, 3, 1, "same", generator=generator, lecun=True)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        hidden = functional.relu(self.first(functional.relu(features)), inplace=True)
        change: Tensor = self.second(hidden)
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
    ) -> None:
        super().__init__()
        self._padding: Padding = padding
        self.convolution = Convolution(
            in_channels, channels, 3, 1, padding, generator=generator, initializer=initializer
        )
        self.blocks = nn.Sequential(*(ResidualBlock(channels, generator) for _ in range(2)))

    def forward(self, features: Tensor, scale: float) -> Tensor:
        """(B, C, h, w) times `scale` to (B, channels, about h/2, about w/2)."""
        features = max_pool(self.convolution(features, scale), self._padding)
        return cast(Tensor, self.blocks(features))


class ImpalaEncoder(nn.Module):
    """Three residual stacks, 16, 32 and 32 channels (Espeholt et al., 2018), times `width_scale`, then ReLU.

    With `valid` padding the stacks' first convolutions and pools are unpadded; residual convolutions stay
    `same`.
    """

    def __init__(
        self,
        in_channels: int,
        padding: Padding,
        generator: torch.Generator,
        width_scale: float = 1.0,
        initializer: Initializer = "xavier",
    ) -> None:
        super().__init__()
        self._padding: Padding = padding
        first, self.channels = (scaled_channels(width, width_scale) for width in (16, 32))
        widths = ((in_channels, first), (first, self.channels), (self.channels, self.channels))
        self.stacks = nn.ModuleList(ImpalaStack(*width, padding, generator, initializer) for width in widths)

    def positions(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the feature map for an image of `height` x `width`."""
        return positions("impala", height, self._padding), positions("impala", width, self._padding)

    def forward(self, image: Tensor, scale: float) -> Tensor:
        """Features (B, C, h, w) of the image (B, K, H, W) times `scale`."""
        features = image
        for index, stack in enumerate(self.stacks):
            features = stack(features, scale if index == 0 else 1.0)
        return functional.relu(features)


ENCODER_CLASSES: dict[str, type[ImpalaEncoder] | type[NatureEncoder]] = {
    "impala": ImpalaEncoder,
    "nature": NatureEncoder,
}


def build_encoder(
    name: str,
    in_channels: int,
    padding: Padding,
    generator: torch.Generator,
    width_scale: float = 1.0,
    initializer: Initializer = "xavier",
) -> ImpalaEncoder | NatureEncoder:
    """The built-in encoder called `name` for images of `in_channels` stacked frames; else a ValueError."""
    if name not in ENCODER_CLASSES:
        raise ValueError(f"encoder {name!r}: must be one of {', '.join(ENCODER_CLASSES)} or module:callable")
    return ENCODER_CLASSES[name](in_channels, padding, generator, width_scale, initializer)
