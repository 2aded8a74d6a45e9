"""Videos of games as H.264 mp4 files."""

from pathlib import Path
from types import TracebackType
from typing import Self

import imageio.v2 as imageio
import numpy as np
from numpy.typing import NDArray

SMALLEST_SIDE = 320


class VideoWriter:
    """Writes uint8 frames, grey (H, W) or RGB (H, W, 3), to an mp4, small ones enlarged by a whole factor."""

    def __init__(self, path: Path, *, fps: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._writer = imageio.get_writer(path, fps=fps, codec="libx264", macro_block_size=2, quality=7)

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Append one frame."""
        factor = max(1, -(-SMALLEST_SIDE // min(frame.shape[:2])))
        image = frame.repeat(factor, axis=0).repeat(factor, axis=1)
        if image.ndim == 2:
            image = np.stack([image] * 3, axis=-1)
        self._writer.append_data(image)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
