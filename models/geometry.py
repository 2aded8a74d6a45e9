"""Compute the sizes of feature maps by arithmetic alone, to check configurations before torch is loaded."""

from typing import Literal

Padding = Literal["same", "valid"]

NATURE_LAYERS = ((8, 4), (4, 2), (3, 1))
"""(kernel, stride) of the Nature encoder's convolutions."""
IMPALA_LAYERS = ((3, 1), (3, 2)) * 3
"""(kernel, stride) of each Impala stack's first convolution and pooling; residual blocks keep the size."""
MINATAR_LAYERS = ((3, 1),)
"""(kernel, stride) of the one convolution of Young and Tian, 2019."""
LAYERS = {"nature": NATURE_LAYERS, "impala": IMPALA_LAYERS, "minatar": MINATAR_LAYERS}


def output_size(size: int, kernel: int, stride: int, padding: Padding) -> int:
    """Return the positions along one axis after a convolution or pooling; 0 if the input is too small."""
    if padding == "same":
        return -(-size // stride)
    return max((size - kernel) // stride + 1, 0)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after one axis so that the output has ceil(size / stride) positions.

    As XLA and TensorFlow do it, the extra zero of an odd total goes after. Stride 2 and kernel 3 on
    an even size thus give (0, 1), not (1, 1).
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def positions(encoder: str, size: int, padding: Padding) -> int:
    """Return the feature map's positions along an axis of `size` pixels; `encoder` is one of LAYERS."""
    for kernel, stride in LAYERS[encoder]:
        size = output_size(size, kernel, stride, padding)
    return size


def centres(encoder: str, size: int, padding: Padding) -> tuple[float, float]:
    """Return where receptive fields of the feature map's positions are centred on an axis of `size` pixels.

    The result is the centre of the first position and the distance to the next, in pixels from the
    edge.
    """
    first, step = 0.5, 1
    for kernel, stride in LAYERS[encoder]:
        before = same_padding(size, kernel, stride)[0] if padding == "same" else 0
        # A kernel's centre is (kernel - 1) / 2 input positions of `step` pixels after its first.
        first += ((kernel - 1) / 2 - before) * step
        step *= stride
        size = output_size(size, kernel, stride, padding)
    return first, float(step)


def smallest_image(encoder: str, padding: Padding, at_least: int = 1) -> int:
    """Return the fewest pixels on a side that leave `at_least` positions."""
    size = 1
    while positions(encoder, size, padding) < at_least:
        size += 1
    return size


def scaled_channels(channels: int, scale: float) -> int:
    """Return a convolution's channels times the width scale, rounded down as in the reference code."""
    return int(channels * scale)
