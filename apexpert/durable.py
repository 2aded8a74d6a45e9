"""Write files so that a crash or a power loss leaves the old content or the new, and check them later."""

import hashlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp-"
"""How the names of files begin that are not in their place yet; a crash may leave such files."""


def write(path: Path, data: bytes | Iterable[bytes], mode: int = 0o644, *, synced: bool = True) -> None:
    """Write a file, in parts if `data` is several; `synced` waits until it is on disk. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)
        if synced:
            file.flush()
            os.fsync(file.fileno())


def replace(path: Path, data: bytes, mode: int = 0o644, *, synced: bool = True) -> None:
    """Replace a file's content in one step, whoever reads or replaces it meanwhile; raises OSError.

    Once this returns the new content is on disk; without `synced`, a power loss may leave an empty file.
    """
    # Two threads may write the same file, as an evaluation and the telemetry do.
    temporary = path.with_name(f"{TEMPORARY}{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        write(temporary, data, mode, synced=synced)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if synced:
        # A rename is on disk only once its folder is synced.
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on disk; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fingerprint(path: Path) -> dict[str, Any]:
    """Return a file's size in bytes and its SHA-256, as a manifest holds them."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
