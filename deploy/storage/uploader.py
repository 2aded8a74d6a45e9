"""Copies each checkpoint to a place elsewhere, beside training: a thread of its own, the newest one first."""

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from apexpert import durable
from apexpert.backoff import Backoff
from apexpert.errors import one_line
from deploy.run.config import Config
from deploy.run.folder import CONFIG, EPISODES, FLEET, LEGS, METADATA, METRICS, STATUS, RunFolder
from deploy.storage.history import status_to_keep
from deploy.storage.layout import (
    CHECKPOINT,
    BrokenUpload,
    Upload,
    folders,
    manifest_name,
    read_upload,
    updates,
)
from deploy.storage.owner import Superseded, check_claim, place_of
from deploy.storage.place import CHUNK_BYTES, Place, StorageError
from learner.checkpoint import BEST, CheckpointStore
from learner.checkpoint_names import number_of

logger = logging.getLogger(__name__)

RETRY_SECONDS = (5.0, 300.0)
"""Shortest and longest wait before a failed copy is tried again; the wait doubles."""
LAST_SECONDS = 45.0
"""How long the end of a run waits for its last checkpoint to be copied."""
TAIL_BYTES = 2**16


class Uploader:
    """Copies the newest checkpoint submitted; an older one that still waits is left out.

    A copy that fails is noted once and tried again, with longer and longer waits. Nobody waits for it but
    `finish`.
    """

    def __init__(
        self,
        folder: RunFolder,
        store: CheckpointStore,
        config: Config,
        *,
        note: Callable[[str], None],
        retry_seconds: tuple[float, float] = RETRY_SECONDS,
    ) -> None:
        """As many copies stay as checkpoints here, and the best one's; `note` gets lines for users."""
        self._folder, self._store, self._config, self._note = folder, store, config, note
        self._waits = Backoff(*retry_seconds)
        self._place: Place | None = None
        self._changed = threading.Condition()
        self._waiting: Path | None = None
        self._busy = self._ending = self._superseded = False
        self._refusal = ""
        self._count = self._failures = 0
        self._newest_written = time.time()
        self._thread: threading.Thread | None = None

    def submit(self, path: Path) -> None:
        """Have this checkpoint copied, and return at once."""
        with self._changed:
            if self._superseded:
                return
            self._waiting = path
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="uploads", daemon=True)
                self._thread.start()

    def finish(self, seconds: float = LAST_SECONDS) -> bool:
        """Wait until all that was submitted is copied, at most `seconds`; return whether it is."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting is None and not self._busy, seconds)
            done = self._waiting is None and not self._busy
        if not done and not self._superseded:
            why = self._refusal or f"not done after {seconds:.0f} s"
            self._note(f"the last checkpoint is here, but not copied elsewhere: {why}; a resume copies it")
        return done

    def metrics(self) -> dict[str, float]:
        """Return how many were copied, failed tries, and the age of what a resume elsewhere would find.

        Before the first copy the age counts from this learner's start.
        """
        age = max(0.0, time.time() - self._newest_written)
        counts = {"uploads": float(self._count), "upload_failures": float(self._failures)}
        return {f"checkpoint/{name}": value for name, value in {**counts, "upload_age_s": age}.items()}

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None)
                path, self._waiting, self._busy = self._waiting, None, True
            assert path is not None
            try:
                self._upload(path)
            except Superseded as error:
                self._superseded = True
                self._note(f"checkpoints are copied elsewhere no more: {error}; end this run: apexpert stop")
            except Exception as error:  # Of any kind: training goes on, and it is tried again.
                self._refused(path, error)
            else:
                self._copied(path)
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                if self._superseded:
                    self._waiting = None
                    return

    def _copied(self, path: Path) -> None:
        if self._refusal:
            self._note(f"checkpoints are copied elsewhere again: {path.name}")
        self._refusal = ""
        self._waits.reset()

    def _refused(self, path: Path, error: Exception) -> None:
        known, self._refusal = self._refusal, one_line(error)
        self._failures += 1
        self._place = None  # Opened anew: credentials and networks change.
        logger.info("checkpoint %s cannot be copied", path.name, exc_info=error)
        if not known:
            self._note(f"{path.name} cannot be copied elsewhere: {self._refusal}; it is tried again")
        seconds = self._waits.next()
        with self._changed:
            # A newer one that was submitted meanwhile takes precedence.
            self._waiting = self._waiting or path
            self._changed.wait_for(lambda: self._ending, 1.0 if self._ending else seconds)
            if self._ending:
                self._changed.wait(1.0)

    def _upload(self, path: Path) -> None:
        begun = time.monotonic()
        place = self._place = self._place or place_of(self._config)
        check_claim(self._folder, place)
        best = self._store.best()
        for wanted in [path] if best is None else [path, best[0]]:
            with self._store.pinned(wanted):
                # One that was removed while the place was out of reach has a newer one after it.
                if wanted.is_dir() and not _is_there(place, wanted):
                    self._put(place, wanted)
                    self._count += 1
        written = path / "manifest.json"
        self._newest_written = written.stat().st_mtime if written.exists() else self._newest_written
        try:
            _clean(place, self._config.learner.keep_checkpoints, None if best is None else number_of(best[0]))
        except StorageError as error:  # The copy is there, and the next one cleans up as well.
            logger.info("older copies stay for now: %s", error)
        logger.info("%s copied to %s in %.1f s", path.name, place.url, time.monotonic() - begun)

    def _put(self, place: Place, path: Path) -> None:
        folder = f"{path.name}.{secrets.token_hex(4)}"
        files = {}
        with ExitStack() as stack:
            for name, chunks in self._parts(path, stack):
                files[name] = place.write(f"{folder}/{name}", chunks)
        identity = self._folder.identity
        upload = Upload(
            self._config.run.name, identity.id if identity else "", number_of(path), folder, files
        )
        place.write(manifest_name(upload.update), [upload.to_json()])

    def _parts(self, path: Path, stack: ExitStack) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Yield the files of an upload: the checkpoint's, and the run's configuration and history."""
        for file in sorted(path.iterdir()):
            yield f"{CHECKPOINT}{file.name}", _chunks(file, file.stat().st_size)
        for name in (CONFIG, METADATA, FLEET, LEGS):
            if (file := self._folder.path / name).is_file():
                yield name, iter([file.read_bytes()])
        for name in (METRICS, EPISODES):
            if (file := self._folder.path / name).is_file():
                yield name, _chunks(file, _end_of_lines(file))
        if (file := self._store.folder / BEST).is_file():
            yield BEST, iter([file.read_bytes()])
        if status := status_to_keep(self._folder, "its checkpoint was copied while it was at work"):
            yield STATUS, iter([json.dumps(status).encode()])


def uploader_of(
    folder: RunFolder, config: Config, store: CheckpointStore, note: Callable[[str], None]
) -> Uploader | None:
    """Return what copies the run's checkpoints elsewhere; None for a run that keeps them here."""
    if not config.run.checkpoints_to:
        return None
    return Uploader(folder, store, config, note=note)


def _is_there(place: Place, path: Path) -> bool:
    """Whether this very checkpoint was copied already, as for a run that is resumed."""
    try:
        known = read_upload(place, number_of(path)).files.get(f"{CHECKPOINT}manifest.json", {})
    except BrokenUpload:
        return False
    return known == durable.fingerprint(path / "manifest.json")


def _clean(place: Place, keep: int, best: int | None) -> None:
    """Remove copies no longer kept, each manifest before its files, and what interrupted copies have left."""
    names = place.names()
    kept: dict[int, Upload] = {}
    for update in updates(names):
        try:
            upload = read_upload(place, update)
        except BrokenUpload:
            place.remove(manifest_name(update))
            continue
        if len(kept) < keep or update == best:
            kept[update] = upload
        else:
            place.remove(manifest_name(update))
    used = {upload.folder for upload in kept.values()}
    for folder in folders(names):
        if folder not in used:
            place.remove(folder)


def _chunks(path: Path, size: int) -> Iterator[bytes]:
    """Yield the first `size` bytes of a file, which may grow meanwhile."""
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(CHUNK_BYTES, size))):
            size -= len(chunk)
            yield chunk


def _end_of_lines(path: Path) -> int:
    """Return where the last whole line of a file ends, in bytes from its start."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - TAIL_BYTES))
        tail = file.read(min(size, TAIL_BYTES))
    return size - len(tail) + tail.rfind(b"\n") + 1
