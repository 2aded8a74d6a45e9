"""How old a run's newest checkpoint is."""

import contextlib
import time
from pathlib import Path

from deploy.run.folder import RunFolder

LOOK_SECONDS = 5.0


class CheckpointAge:
    """Looks for a newer checkpoint in the run's folder every few seconds."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._newest: Path | None = None
        self._since = self._looked = time.monotonic()
        self._newest = folder.newest_checkpoint()
        if self._newest is not None:
            # Only here by the storage's clock, which may differ from this node's.
            with contextlib.suppress(OSError):
                self._since -= max(time.time() - self._newest.stat().st_mtime, 0.0)

    def seconds(self) -> float:
        """Return the seconds since the newest checkpoint, or since the start while there is none."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            newest = self._folder.newest_checkpoint()
            if newest is not None and newest != self._newest:
                self._newest, self._since = newest, now
        return now - self._since
