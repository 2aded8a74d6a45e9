"""numba's `njit`, with a folder for the compiled code on every machine.

numba keeps compiled code beside the source file, or else in the user's home, and raises if it can
write to neither. Import `njit` from here: the folder is chosen on import, in every process, whoever
started it.
"""

import os
from pathlib import Path

from numba import njit, types
from numba.core import config

from replay.segments.cache_folder import can_write, private_folder, users_folder

__all__ = ["cache_folder", "njit", "types"]

VARIABLE = "NUMBA_CACHE_DIR"
BESIDE = Path(__file__).parent / "__pycache__"


def cache_folder() -> Path:
    """Return the folder that the compiled code goes to."""
    return Path(str(njit(cache=True)(_nothing).stats.cache_path))


def _finds_a_place() -> bool:
    """Whether numba finds a folder without help; nothing is compiled."""
    # Without a home, numba would create a folder named `~` in the current folder.
    if not can_write(BESIDE) and users_folder("XDG_CACHE_HOME", "~/.cache") is None:
        return False
    try:
        njit(cache=True)(_nothing)
    except (OSError, RuntimeError):
        return False
    return True


def _nothing() -> None: ...


if not _finds_a_place():
    os.environ[VARIABLE] = str(private_folder())
    # numba read its settings when it was imported.
    config.reload_config()  # type: ignore[no-untyped-call]
