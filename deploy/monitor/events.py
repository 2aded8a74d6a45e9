"""TensorBoard events: numbers, images and the run's settings, in one file."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.summary.writer.event_file_writer import EventFileWriter

CELL_PIXELS = 8


class Events:
    """The event file of one process in `folder`. Numbers and images share one file, because TensorBoard reads
    the files of a folder one after the other, not side by side."""

    def __init__(self, folder: Path) -> None:
        # As in torch.utils.tensorboard, which would import torch into the supervisor.
        self._writer = EventFileWriter(str(folder))

    def add_scalar(self, name: str, value: float, env_steps: int, *, wall_time: float) -> None:
        """Add one number; `wall_time` in seconds since the epoch."""
        event = Event(wall_time=wall_time, step=env_steps)
        # A plain value, which every reader of event files knows as a scalar.
        event.summary.value.append(Summary.Value(tag=name, simple_value=value))
        self._writer.add_event(event)

    def add_image(self, name: str, image: NDArray[np.uint8], env_steps: int, *, wall_time: float) -> None:
        """Add one image (height, width, 3)."""
        height, width, channels = image.shape
        png = io.BytesIO()
        imageio.imwrite(png, image, extension=".png")
        # TensorBoard's number for a colorspace is that of its channels: 3 is RGB.
        content = Summary.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=png.getvalue()
        )
        event = Event(wall_time=wall_time, step=env_steps)
        event.summary.value.append(Summary.Value(tag=name, image=content))
        self._writer.add_event(event)

    def add_settings(
        self, settings: Mapping[str, bool | float | str], metrics: Sequence[str], *, wall_time: float
    ) -> None:
        """Add what TensorBoard's HPARAMS page compares runs by: settings, and names of metrics."""
        config = hparams.hparams_config_pb(
            [hparams.HParam(name) for name in settings], [hparams.Metric(name) for name in metrics]
        )
        for summary in (config, hparams.hparams_pb(dict(settings), start_time_secs=wall_time)):
            self._writer.add_event(Event(wall_time=wall_time, summary=summary))

    def flush(self) -> None:
        """Write out the buffer."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


def cosines(kernel: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return a kernel (B, B) as the cosines (B, B), -1 to 1, between what its entries are inner products of.

    Gradient covariances are drawn like this in Lyle et al., 2022 (arXiv 2206.02126) and later work. A sample
    whose own entry is not positive has rows of 0.
    """
    lengths = np.sqrt(np.maximum(np.diagonal(kernel), 0.0, dtype=np.float64))
    products = np.outer(lengths, lengths)
    return np.divide(kernel, products, out=np.zeros_like(products), where=products > 0)


def correlation_image(kernel: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draw a kernel (B, B) as an image (8 B, 8 B, 3): cosines, from blue (-1) over white (0) to red (1)."""
    found = cosines(kernel)
    against, along = np.clip(-found, 0.0, 1.0), np.clip(found, 0.0, 1.0)
    colours = np.stack([1.0 - against, 1.0 - against - along, 1.0 - along], axis=2)
    pixels = np.rint(255 * colours).astype(np.uint8)
    return pixels.repeat(CELL_PIXELS, axis=0).repeat(CELL_PIXELS, axis=1)
