"""A user-supplied encoder or head, given as `module:callable`.

Encoder: `callable(config, in_channels)` returns a module that maps float images (B, K, H, W), 0 to 1, K being
`in_channels`, to feature maps (B, C, h, w).
Head: `callable(config, num_tokens, width)` returns a module that maps tokens (B, T, D) to features (B, F), or
to tokens, which are then combined according to `config.combine`.

The sizes C, h, w and F are found with one pass of zeros. What the callable draws from torch's
global generator is reproducible by the network's seed. Actors receive only parameters: a buffer
that changes in training (as in batch normalisation) would not reach them. A user's head gets no
noise; the output layer does.
"""

import importlib
from typing import Literal

import torch
from torch import Tensor, nn

from apexpert.users_code import explained
from models.config import NetworkConfig


class ImportedModule(nn.Module):
    """The user's module `inner`, with errors that name the flag that selected it."""

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
        # The callable may draw from torch's global generator, whose state is restored afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.inner = self._make(config, arguments)

    def _make(self, config: NetworkConfig, arguments: tuple[int, ...]) -> nn.Module:
        module_name, _, attribute = self._name.partition(":")
        try:
            made = getattr(importlib.import_module(module_name), attribute)(config, *arguments)
        # Whatever the user's code raises; `from` keeps the cause. A file may be a script that ends by itself.
        except (Exception, SystemExit) as error:
            raise self._error(f"cannot be made: {explained(error, module_name)}") from error
        if not isinstance(made, nn.Module):
            raise self._error(f"gives {type(made).__name__}, not a torch.nn.Module")
        return made

    def probe(self, shape: tuple[int, ...], dimensions: tuple[int, ...]) -> torch.Size:
        """Return the shape of the output for zeros (1, *shape).

        Raises ValueError if the output is not a tensor with a fitting number of dimensions.
        """
        try:
            with torch.no_grad():
                result = self.inner(torch.zeros(1, *shape))
        except Exception as error:
            raise self._error(f"fails on inputs of {(1, *shape)}: {explained(error)}") from error
        if isinstance(result, Tensor) and result.ndim in dimensions and len(result) == 1:
            return result.shape
        found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        wanted = " or ".join(map(str, dimensions))
        raise self._error(f"makes {found} of inputs of {(1, *shape)}, not a batch with {wanted} dimensions")

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"{self._flag} {reason}")
