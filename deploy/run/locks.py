"""Locks in a run's folder, which the kernel releases when their holder dies."""

import contextlib
import errno
import fcntl
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from deploy.run.errors import RunBusy, RunError
from replay.servers.hard_links import is_own_lock

LOCK, STARTING, LAST_WORDS = "lock", ".starting", ".last-words"
LAST_WORDS_SECONDS = 5.0
MAKING_SECONDS = 30.0
"""Wait this long for another process that makes a folder of the same name, which takes it a second or two."""
LOOKED_AT_SECONDS = 0.2
"""Wait this long for a lock: a process that only looks whether a run is locked holds it for a moment."""


class LockedFolder:
    """A run's folder, as everybody who may be at work on it sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.checkpoints = self.path / "checkpoints"

    @property
    def name(self) -> str:
        """The folder's name, by which people name the run; its keys have the configuration's `run.name`."""
        return self.path.name

    @property
    def reference(self) -> str:
        """How a command line names it from here, quoted for a shell: its name in `runs/`, else its path."""
        is_here = self.path.parent == Path("runs").absolute() and not self.name.startswith("-")
        return shlex.quote(self.name if is_here else str(self.path))

    def command(self, verb: str) -> str:
        """The exact command line that does `verb` with this run from here."""
        return f"apexpert {verb} {self.reference}"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run alone; RunBusy when another process does. The kernel frees it when its holder dies."""
        with self._own(LOCK):
            yield

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Be the one command that starts the run; RunBusy when another one does.

        To be held until the new supervisor has the run's `lock`, which a command cannot hand over. Waits for
        the last words of whoever was at work before.
        """
        with self._own(STARTING):
            deadline = time.monotonic() + LAST_WORDS_SECONDS
            # Not for longer: a learner may try to write them for a minute, and gives way to a new run.
            while is_locked(self.path / LAST_WORDS) and time.monotonic() < deadline:
                time.sleep(0.02)
            yield

    def busy(self) -> RunBusy:
        """Return the error of whoever finds the run at work."""
        return RunBusy(f"{self.name} is at work already: see apexpert status {self.reference}")

    @contextlib.contextmanager
    def _own(self, name: str) -> Iterator[None]:
        """Hold the lock file of that name."""
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(self._locked(name))
            if not is_own_lock(file.fileno(), self.path / name):
                # A copy by hard links shared the lock; now this path has its own (decision 0019).
                stack.close()
                stack.enter_context(self._locked(name))
            yield

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[IO[str]]:
        with opened(self.path / name) as file:
            deadline = time.monotonic() + LOOKED_AT_SECONDS
            while not take(file):
                if time.monotonic() > deadline:
                    raise self.busy()
                time.sleep(0.01)
            yield file

    def is_supervised(self) -> bool:
        """Whether a process of this machine holds the run (see `lock`)."""
        return is_locked(self.path / LOCK, fcntl.LOCK_SH)

    def is_saved_to(self) -> bool:
        """Whether a learner of this machine is the one that saves its checkpoints."""
        return is_locked(self.checkpoints / ".lock", fcntl.LOCK_SH)

    def is_at_work(self) -> bool:
        """The same, or a learner of it still saves its last checkpoint, or may write the last status."""
        # Holders of last words share their lock, so only an exclusive probe notices them.
        return self.is_supervised() or self.is_saved_to() or is_locked(self.path / LAST_WORDS)

    @contextlib.contextmanager
    def last_words(self) -> Iterator[None]:
        """While entered, the run counts as at work: its last status may be to come yet."""
        with (self.path / LAST_WORDS).open("a") as file:
            # Shared, for several processes; waited for, because a probe holds it for a moment.
            fcntl.flock(file, fcntl.LOCK_SH)
            yield


@contextlib.contextmanager
def being_made(path: Path) -> Iterator[None]:
    """Be the only one that makes the run's folder `path`, or removes what a killed command left of one.

    The lock is a file beside it, because that folder is what comes and goes; it is removed at the end. Raises
    RunBusy, or OSError when no file can be made there.
    """
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent))
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, deadline = path.with_name(f".{path.name}.making"), time.monotonic() + MAKING_SECONDS
    while True:
        with lock.open("a") as file:
            # Whoever had the lock may have removed the file since it was opened: then nobody else sees it.
            if take(file) and is_own_lock(file.fileno(), lock):
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)
                return
        if time.monotonic() > deadline:
            raise RunBusy(f"{path.name}: another command is making {path}")
        time.sleep(0.05)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[str]]:
    """Open a file of the run for writing; raise RunError when that is not allowed."""
    try:
        file = path.open("a")
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}") from None
    with file:
        yield file


def take(file: IO[str]) -> bool:
    """Take the lock; return False if another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path, probe: int = fcntl.LOCK_EX) -> bool:
    """Whether a process holds the lock of that file.

    `probe` LOCK_SH does not detect shared locks, and does not disturb others that probe at the same time.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, probe | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
