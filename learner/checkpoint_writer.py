"""Writes checkpoints beside the learner's loop, one at a time, and retries while the disk refuses."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from apexpert.backoff import Backoff
from apexpert.errors import one_line
from learner.checkpoint import CheckpointStore
from learner.errors import CheckpointNotWritten

logger = logging.getLogger(__name__)

RETRY_SECONDS = (0.5, 10.0)
"""Shortest and longest wait before a failed write is retried; the wait doubles."""
LAST_SECONDS = 60.0
"""How long a run's last checkpoint is retried: a full disk often has room again within seconds."""


@dataclass(frozen=True)
class Snapshot:
    """Copies of everything a checkpoint holds, taken at a barrier of the loop: nothing in it changes."""

    update: int
    tensors: Mapping[str, torch.Tensor | NDArray[Any]]
    document: dict[str, Any]


class CheckpointWriter:
    """One background thread that saves the newest snapshot submitted.

    A newer snapshot replaces one that is still waiting. A failed write is noted once and retried until it
    succeeds or a newer snapshot replaces it; older checkpoints stay intact meanwhile.
    """

    def __init__(
        self,
        store: CheckpointStore,
        *,
        note: Callable[[str], None],
        last_seconds: float = LAST_SECONDS,
        saved: Callable[[Snapshot], object] = lambda snapshot: None,
    ) -> None:
        """`note` receives a message when writing a checkpoint first fails and when it works again; `saved`
        each snapshot once it is written, and may raise OSError."""
        self._store, self._note, self._last_seconds, self._saved = store, note, last_seconds, saved
        self._changed = threading.Condition()
        self._waiting: Snapshot | None = None
        self._written: tuple[Snapshot, Path] | None = None
        self._refusal: OSError | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, snapshot: Snapshot) -> None:
        """Have the snapshot written, and return at once."""
        with self._changed:
            self._closed, self._waiting = False, snapshot
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
                self._thread.start()

    def finish(self, snapshot: Snapshot) -> Path:
        """Have the snapshot written, wait for it and return its folder.

        Raises CheckpointNotWritten, with the system's reason, after `last_seconds` and the end of a save that
        is in progress then; the snapshot is not written later.
        """
        self.submit(snapshot)
        with self._changed:
            self._changed.wait_for(lambda: self._path_of(snapshot) is not None, self._last_seconds)
        # Ended before the verdict: a save in progress may still succeed, and none may begin after it.
        self.close()
        if (path := self._path_of(snapshot)) is not None:
            return path
        reason = _reason(self._refusal) if self._refusal else f"not done after {self._last_seconds:.0f} s"
        kept = next((path.name for path in self._store.paths()), "none")
        what = f"the last checkpoint, of update {snapshot.update}, cannot be written"
        raise CheckpointNotWritten(f"{what}: {reason}; the newest is {kept}")

    def close(self) -> None:
        """End the thread; a waiting snapshot is tried once more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        # Joined outside the lock, which the thread takes to report its last write.
        if thread is not None:
            thread.join()

    def _path_of(self, snapshot: Snapshot) -> Path | None:
        # By identity, because several snapshots may be of the same update.
        return self._written[1] if self._written is not None and self._written[0] is snapshot else None

    def _work(self) -> None:
        waits = Backoff(*RETRY_SECONDS)
        while (snapshot := self._next()) is not None:
            if self._save(snapshot):
                waits.reset()
                continue
            with self._changed:
                if not self._closed:
                    # A newer snapshot that arrived meanwhile takes precedence.
                    self._waiting = self._waiting or snapshot
                self._changed.wait_for(lambda: self._closed, waits.next())

    def _next(self) -> Snapshot | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting is not None)
            snapshot, self._waiting = self._waiting, None
            return snapshot

    def _save(self, snapshot: Snapshot) -> bool:
        begun = time.monotonic()
        try:
            path = self._store.save(snapshot.update, snapshot.tensors, snapshot.document)
        except Exception as error:  # Of any kind: if the thread ended, no checkpoint would be written again.
            self._refused(snapshot, error if isinstance(error, OSError) else OSError(str(error)))
            return False
        logger.info("checkpoint %s written in %.1f s", path.name, time.monotonic() - begun)
        with self._changed:
            if self._refusal is not None:
                self._note(f"checkpoints can be written again: {path.name}")
            self._refusal, self._written = None, (snapshot, path)
            self._changed.notify_all()
        try:
            self._saved(snapshot)
        except OSError as error:
            self._note(f"the network of update {snapshot.update} cannot be kept: {_reason(error)}")
        return True

    def _refused(self, snapshot: Snapshot, error: OSError) -> None:
        with self._changed:
            known, self._refusal = self._refusal, error
        if known is None:
            text = f"checkpoint of update {snapshot.update} cannot be written: {_reason(error)}"
            self._note(f"{text}; it is tried again, earlier checkpoints stay")


def _reason(error: OSError) -> str:
    return one_line(error.strerror or error)
