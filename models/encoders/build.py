"""Build the encoder that a configuration names."""

import torch

from models.config import Initializer
from models.encoders.impala import ImpalaEncoder
from models.encoders.plain import MinAtarEncoder, NatureEncoder, PlainEncoder
from models.geometry import Padding

ENCODER_CLASSES: dict[str, type[ImpalaEncoder] | type[PlainEncoder]] = {
    "impala": ImpalaEncoder,
    "nature": NatureEncoder,
    "minatar": MinAtarEncoder,
}


def build_encoder(
    name: str,
    in_channels: int,
    padding: Padding,
    generator: torch.Generator,
    width_scale: float = 1.0,
    initializer: Initializer = "xavier",
    centered: bool = False,
) -> ImpalaEncoder | PlainEncoder:
    """Build the encoder called `name` for images of `in_channels` planes; ValueError if unknown."""
    if name not in ENCODER_CLASSES:
        raise ValueError(f"encoder {name!r}: must be one of {', '.join(ENCODER_CLASSES)} or module:callable")
    return ENCODER_CLASSES[name](in_channels, padding, generator, width_scale, initializer, centered)
