"""A batch kept for inspection, because an update of it was not finite."""

import dataclasses
from pathlib import Path

import numpy as np

from replay.types import Batch


def keep_batch(path: Path, batch: Batch) -> str:
    """Save the batch's arrays by their names as `path`, an npz file; return where it is, or why not."""
    arrays = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)
    except OSError as error:
        return f"its batch cannot be saved: {error.strerror}"
    return f"its batch is in {path}"
