"""Where compiled code and other caches go when the home folder cannot be written: a private folder.

A service's user may have no name, no home, and no leave to write where the packages are installed.
"""

import atexit
import functools
import os
import shutil
import stat
import tempfile
from pathlib import Path


def users_folder(variable: str, default: str) -> Path | None:
    """A folder below the user's home such as ~/.cache, or the one that `variable` names instead, if files can
    be made in it; None when they cannot, or when the user has no home."""
    folder = os.environ.get(variable) or os.path.expanduser(default)  # noqa: PTH111 (Path raises without a home)
    path = Path(folder)
    return path if path.is_absolute() and can_write(path) else None


def can_write(folder: Path) -> bool:
    """Whether files can be made in it, or it can be made."""
    # os.path: a Path raises where a folder above may not be entered, such as another user's home.
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    return os.path.isdir(existing) and os.access(existing, os.W_OK | os.X_OK)  # noqa: PTH112


_removed_at_end: list[Path] = []


@functools.cache
def private_folder() -> Path:
    """A folder below the temporary folder that belongs to this user, whom nobody can give code to run there.

    It is the same for all processes of a user. Where somebody else has taken its name, each process has one
    of its own, which is removed at its end.
    """
    folder = Path(tempfile.gettempdir()) / f"apexpert-cache-{os.geteuid()}"
    try:
        folder.mkdir(mode=0o700)
    except OSError:
        if not is_private(folder):
            folder = Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))
            _removed_at_end.append(folder)
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def is_removed_at_end(folder: Path) -> bool:
    """Whether it lasts for this process alone."""
    return any(folder.is_relative_to(removed) for removed in _removed_at_end)


def is_private(folder: Path) -> bool:
    """Whether it is a folder (no link to one) of this user into which nobody else may write."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid == os.geteuid()
        and not stat.S_IMODE(found.st_mode) & 0o077
    )
