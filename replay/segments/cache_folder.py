"""Find a private folder for compiled code and other caches when the home folder cannot be written.

A service's user may have no name, no home, and no permission to write where the packages are
installed.
"""

import atexit
import functools
import os
import shutil
import stat
import tempfile
from pathlib import Path


def users_folder(variable: str, default: str) -> Path | None:
    """Return a folder below the user's home, such as ~/.cache, or the one that `variable` names instead.

    None if no files can be created in it, or if the user has no home.
    """
    folder = os.environ.get(variable) or os.path.expanduser(default)  # noqa: PTH111 (Path raises without a home)
    path = Path(folder)
    return path if path.is_absolute() and can_write(path) else None


def can_write(folder: Path) -> bool:
    """Whether files can be created in `folder`, or `folder` itself can be created."""
    # os.path: Path raises where a parent folder may not be entered, such as another user's home.
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    return os.path.isdir(existing) and os.access(existing, os.W_OK | os.X_OK)  # noqa: PTH112


_removed_at_end: list[Path] = []


@functools.cache
def private_folder() -> Path:
    """Return a folder in the temporary folder that belongs to this user, where nobody else can put code.

    All processes of a user share the folder. If somebody else has taken its name, each process gets
    a folder for itself, which is removed when the process ends.
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
    """Whether `folder` lasts for this process only."""
    return any(folder.is_relative_to(removed) for removed in _removed_at_end)


def is_private(folder: Path) -> bool:
    """Whether `folder` is a folder (not a link to one) of this user that no other user may read or write."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid == os.geteuid()
        and not stat.S_IMODE(found.st_mode) & 0o077
    )
