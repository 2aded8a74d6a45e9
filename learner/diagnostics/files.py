"""Arrays of diagnoses in a run's folder: diagnostics/update-000012345.npz, a bounded number of files."""

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = "diagnostics"
NAME = re.compile(r"update-(\d{9,})\.npz")
MAX_FILES = 64
"""Beyond this many, the file where they lie closest is removed: the rest covers the whole training."""


def array_path(folder: Path, update: int) -> Path:
    """Return the path of the arrays of the diagnosis of `update`, below the run's `folder`."""
    return folder / FOLDER / f"update-{update:09d}.npz"


def array_files(folder: Path) -> list[Path]:
    """Return the array files of all kept diagnoses of the run in `folder`, oldest first."""
    if not (folder / FOLDER).is_dir():
        return []
    found = [(match, path) for path in (folder / FOLDER).iterdir() if (match := NAME.fullmatch(path.name))]
    return [path for match, path in sorted(found, key=lambda entry: int(entry[0][1]))]


def save_arrays(folder: Path, update: int, arrays: Mapping[str, NDArray[Any]]) -> Path:
    """Write one file, whole or not at all, and thin out the older ones; raise OSError when it cannot."""
    path = array_path(folder, update)
    path.parent.mkdir(exist_ok=True)
    # The name must end in .npz, or numpy appends that ending.
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _thin_out(array_files(folder))
    return path


def _thin_out(paths: list[Path]) -> None:
    """Remove files, never the first or the newest, until MAX_FILES remain."""
    while len(paths) > MAX_FILES:
        updates = [int(path.stem.partition("-")[2]) for path in paths]
        # Find the inner file whose removal leaves the smallest gap.
        gaps = [after - before for before, after in zip(updates, updates[2:], strict=False)]
        paths.pop(1 + gaps.index(min(gaps))).unlink()


def read_arrays(folder: Path, update: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of one diagnosis by name; none if the file is gone or cannot be read."""
    try:
        with np.load(array_path(folder, update), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return {}
