"""A user's own encoder or head, given as `module:callable`.

Encoder: `callable(config, in_channels)` returns a module that maps float images (B, K, H, W), 0 to 1, K
being `in_channels`, to feature maps (B, C, h, w).
Head: `callable(config, num_tokens, width)` returns a module that maps tokens (B, T, D) to features (B, F), or
to tokens, which are then combined as `config.combine` says.

The sizes C, h, w and F are found by one pass of zeros. What the callable draws from torch's global generator
is reproducible by the network's seed. Actors take over parameters alone: a buffer that changes in training
(as batch normalisation has) would not reach them. A head of one's own gets no noise; the output layer does.
"""

import importlib
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from models.config import NetworkConfig
from models.mixtures.head_output import HeadOutput
from models.mixtures.tokens import combine_tokens, combined_size
from models.values.noisy import Noise


class _OwnModule(nn.Module):
    """The user's module `inner`, with errors that name the flag it came by."""

    def __init__(
        self,
        part: Literal["encoder", "head"],
        config: NetworkConfig,
        arguments: tuple[int, ...],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._name = getattr(config, part)
        self._flag = f"--network.{part} {self._name!r}"
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.inner = self._make(config, arguments)

    def _make(self, config: NetworkConfig, arguments: tuple[int, ...]) -> nn.Module:
        module_name, _, attribute = self._name.partition(":")
        try:
            made = getattr(importlib.import_module(module_name), attribute)(config, *arguments)
        except Exception as error:  # Whatever the user's code raises; the cause stays attached.
            raise self._error(f"cannot be made: {_in_one_line(error)}") from error
        if not isinstance(made, nn.Module):
            raise self._error(f"gives {type(made).__name__}, not a torch.nn.Module")
        return made

    def probe(self, shape: tuple[int, ...], dimensions: tuple[int, ...]) -> torch.Size:
        """Shape of what becomes of zeros (1, *shape); ValueError unless it is a tensor that fits."""
        try:
            with torch.no_grad():
                result = self.inner(torch.zeros(1, *shape))
        except Exception as error:
            raise self._error(f"fails on inputs of {(1, *shape)}: {_in_one_line(error)}") from error
        if isinstance(result, Tensor) and result.ndim in dimensions and len(result) == 1:
            return result.shape
        found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        wanted = " or ".join(map(str, dimensions))
        raise self._error(f"makes {found} of inputs of {(1, *shape)}, not a batch with {wanted} dimensions")

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"{self._flag} {reason}")


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class ImportedEncoder(_OwnModule):
    """A user's encoder behind the interface of the built-in ones."""

    def __init__(
        self, config: NetworkConfig, observation_shape: tuple[int, int, int], generator: torch.Generator
    ) -> None:
        super().__init__("encoder", config, (observation_shape[0],), generator)
        self._in_channels = observation_shape[0]
        self.channels = self.probe(observation_shape, (4,))[1]

    def positions(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the feature map for an image of `height` x `width`."""
        shape = self.probe((self._in_channels, height, width), (4,))
        return shape[2], shape[3]

    def forward(self, image: Tensor, scale: float) -> Tensor:
        """Features (B, C, h, w) of the image (B, K, H, W) times `scale`."""
        return cast(Tensor, self.inner(image * scale))


class ImportedHead(_OwnModule):
    """A user's head behind the interface of the built-in ones."""

    noise_sizes: tuple[int, int] | None = None
    router_shape: tuple[int, int] | None = None

    def __init__(
        self, config: NetworkConfig, num_tokens: int, width: int, generator: torch.Generator
    ) -> None:
        super().__init__("head", config, (num_tokens, width), generator)
        self._combine = config.combine
        shape: tuple[Any, ...] = self.probe((num_tokens, width), (2, 3))
        is_vector = len(shape) == 2
        self.out_features = int(shape[1] if is_vector else combined_size(shape[1], shape[2], config.combine))

    def forward(self, tokens: Tensor, noise: Noise | None) -> HeadOutput:
        """Tokens (B, T, D) to features (B, F)."""
        result = cast(Tensor, self.inner(tokens))
        features = result if result.ndim == 2 else combine_tokens(result, self._combine)
        return HeadOutput(features, features, None)
