"""Locks in a run's folder, which the kernel releases when their holder dies."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from deploy.run.errors import RunError


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
