"""Convolution and pooling with the padding of the reference code."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.config import Initializer
from models.geometry import Padding, same_padding
from models.initializers import initialize_, lecun_normal_


class Convolution(nn.Module):
    """Square convolution with `same` (XLA's) or `valid` padding, initialised from an explicit generator.

    Kernels are drawn by `initialize_`, or with `lecun` as lecun normal, the reference code's
    default. `centered` subtracts from each output channel's kernel its mean whenever it is used:
    Adam moves the weights of a kernel that sees a constant all alike, which can take its ReLU below
    zero everywhere for good (docs/decisions/0030).
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
        centered: bool = False,
    ) -> None:
        super().__init__()
        self._centered = centered
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
        """Convolve (B, C, h, w) times `scale`, which is applied to the small kernel, not the large image."""
        weight: Tensor = self.weight
        if self._centered:
            weight = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
        if scale != 1.0:
            weight = weight * scale
        if not self._same:
            return functional.conv2d(features, weight, self.bias, self._stride)
        top, bottom = same_padding(features.shape[2], self._kernel, self._stride)
        left, right = same_padding(features.shape[3], self._kernel, self._stride)
        if top != bottom or left != right:
            # conv2d pads both sides alike, so uneven padding needs a copy.
            features = functional.pad(features, (left, right, top, bottom))
            top = left = 0
        return functional.conv2d(features, weight, self.bias, self._stride, (top, left))


def max_pool(features: Tensor, padding: Padding) -> Tensor:
    """Return the 3x3 maximum with stride 2 over (B, C, h, w); `same` pads like `same_padding`, with -inf."""
    if padding == "valid":
        return functional.max_pool2d(features, 3, 2)
    # Without gradients only: `_max_of_three` writes by `out=`, which autograd refuses.
    if features.device.type == "cpu" and not features.requires_grad:
        return _max_of_three(_max_of_three(features, 2), 3)
    # ceil_mode lets the last window overhang by one: the padding (0, 1) of an even size without a copy.
    odd = (features.shape[2] % 2, features.shape[3] % 2)
    return functional.max_pool2d(features, 3, 2, padding=odd, ceil_mode=True)


def _max_of_three(features: Tensor, dim: int) -> Tensor:
    """Pool one axis with element-wise maxima, in half the time of `max_pool2d` on a CPU."""
    even, odd = (features[(slice(None),) * dim + (slice(start, None, 2),)] for start in (0, 1))
    pairs = odd.shape[dim]
    if even.shape[dim] == pairs:  # windows 0..2, 2..4, ...; the last overhangs
        result = torch.maximum(even, odd)
        inner = result.narrow(dim, 0, pairs - 1)
        torch.maximum(inner, even.narrow(dim, 1, pairs - 1), out=inner)
        return result
    result = even.clone()  # windows -1..1, 1..3, ...; the first and the last overhang
    for start in (0, 1):
        inner = result.narrow(dim, start, pairs)
        torch.maximum(inner, odd, out=inner)
    return result
