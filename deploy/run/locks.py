"""Locks of a run's folder: the kernel frees them when their holder dies."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from deploy.run.errors import RunError


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[str]]:
    """A file of the run to write to; RunError when that is not allowed."""
    try:
        file = path.open("a")
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}") from None
    with file:
        yield file


def take(file: IO[str]) -> bool:
    """Take the lock; False when somebody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path, probe: int = fcntl.LOCK_EX) -> bool:
    """Whether somebody holds the lock of that file.

    `probe` LOCK_SH does not see who shares the lock, and disturbs nobody who looks at the same time.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, probe | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
