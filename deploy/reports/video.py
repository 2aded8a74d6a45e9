"""Videos of games as H.264 mp4 files."""

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Self

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from actors.rendering import Scene
from deploy.reports.captions import enlarged, with_lines

SMALLEST_SIDE = 320


class VideoWriter:
    """Writes uint8 frames, grey (H, W) or RGB (H, W, 3), to an mp4, small ones enlarged by a whole factor.

    If ffmpeg cannot write, for example on a full disk, the game in progress does not end: `failure` then says
    why, and the file is removed. Raises OSError when the file's folder cannot be made.
    """

    def __init__(self, path: Path, *, fps: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.failure = path, ""
        self._has_frames = False
        # H.264 needs even sides only; imageio's default of 16 would rescale an Atari screen.
        self._writer = imageio.get_writer(path, fps=fps, codec="libx264", macro_block_size=2, quality=7)

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Append one frame; does nothing after a failure."""
        if self.failure:
            return
        try:
            self._writer.append_data(enlarged(frame, SMALLEST_SIDE))
        except OSError:
            self._fail()
        self._has_frames = True

    def add_scene(self, scene: Scene, checkpoint: str) -> None:
        """Append a scene of a game with its step, its return so far and the name of what plays above it."""
        where = f"step {scene.env_step:,}  return {scene.return_:,.6g}"
        self.add(with_lines([checkpoint, where], enlarged(scene.picture, SMALLEST_SIDE)))

    def close(self) -> None:
        """Finish the file; afterwards `failure` is empty if the file is complete."""
        try:
            self._writer.close()
            # ffmpeg starts with the first frame: without any there is no file to read.
            if self._has_frames and not self.failure:
                _read_header(self.path)
        except OSError:
            self._fail()

    def _fail(self) -> None:
        self.failure = f"{self.path}: ffmpeg could not write it; what it printed says why"
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read_header(path: Path) -> None:
    """Raise OSError for a file without a header: ffmpeg writes it last and reports no error otherwise."""
    reader = imageio_ffmpeg.read_frames(path.absolute())
    next(reader)
    reader.close()
