"""Detach copies made by hard links (`cp -al`, `rsync --link-dest`) from the files of their original.

Writing to such a file writes to the original's. Files that are appended to, and locks, are
therefore replaced by separate copies before anybody works with them; a file that is only read, or
replaced as a whole, may stay.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from apexpert import durable

COPIED_AT_ONCE = 2**20


def own_files(folder: Path) -> Iterator[Path]:
    """Files of the servers in `folder` that are written into; `.rdb` files never are."""
    return (path for path in folder.rglob("*") if path.suffix != ".rdb")


def unshare(paths: Iterable[Path]) -> None:
    """Replace each of these files that has another name as well by a copy, in one step.

    Nobody may write to the file meanwhile. If OSError is raised, this file and those after it are
    unchanged.
    """
    for path in paths:
        if path.is_file() and not path.is_symlink() and path.stat().st_nlink > 1:
            _replace_by_a_copy(path)


def is_own_lock(descriptor: int, path: Path) -> bool:
    """Whether a held lock is this path's alone; else the path now has a separate lock, still to be taken."""
    held = os.fstat(descriptor)
    # The inode, because another process may have replaced the file between opening and locking it.
    if held.st_nlink == 1 and path.exists() and held.st_ino == path.stat().st_ino:
        return True
    unshare([path])
    return False


def _replace_by_a_copy(path: Path) -> None:
    own = path.with_name(f".{path.name}.own")
    own.unlink(missing_ok=True)  # left by a crash
    try:
        # Readable by its user alone from the first byte: `copystat` comes only after the content.
        descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with path.open("rb") as shared, os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(shared, file, COPIED_AT_ONCE)
        durable.sync(own)
        shutil.copystat(path, own)
        own.replace(path)
    except OSError:
        own.unlink(missing_ok=True)
        raise
