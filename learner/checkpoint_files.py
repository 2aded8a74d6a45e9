"""The files of one checkpoint: written with a manifest, and verified by it."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file

from apexpert import durable
from learner.checkpoint_names import DOCUMENT, number_of
from learner.errors import CheckpointError

FORMAT = 1
TENSORS, MANIFEST = "tensors.safetensors", "manifest.json"


def write_files(
    folder: Path,
    update: int,
    tensors: Mapping[str, torch.Tensor | NDArray[Any]],
    document: dict[str, Any],
) -> None:
    """Write the three files of a checkpoint into `folder`, and sync them; raises OSError."""
    try:
        save_file({name: _as_tensor(value) for name, value in tensors.items()}, folder / TENSORS)
    except SafetensorError as error:
        raise _of_the_system(error, folder / TENSORS) from error
    durable.sync(folder / TENSORS)
    # The run's configuration is in there, and URLs in it can hold passwords.
    durable.write(folder / DOCUMENT, to_json(document), mode=0o600)
    files = {name: durable.fingerprint(folder / name) for name in (DOCUMENT, TENSORS)}
    durable.write(folder / MANIFEST, to_json({"files": files, "format": FORMAT, "update": update}))
    durable.sync(folder)


def verify(path: Path) -> int:
    """Compares the folder with its manifest; returns the update. Raises CheckpointError or OSError."""
    if not (path / MANIFEST).is_file():
        raise CheckpointError(f"{MANIFEST} is missing")
    data = (path / MANIFEST).read_bytes()
    manifest = json.loads(data)
    # The manifest has no checksum of its own: it must read as we write it, and every field of it is compared.
    if to_json(manifest) != data or set(manifest) != {"files", "format", "update"}:
        raise CheckpointError(f"{MANIFEST} is not as it was written")
    if manifest["format"] != FORMAT:
        raise CheckpointError(f"format {manifest['format']}, this version reads {FORMAT}")
    if manifest["update"] != number_of(path) or set(manifest["files"]) != {DOCUMENT, TENSORS}:
        raise CheckpointError(f"{MANIFEST} does not belong to this folder")
    for name, expected in manifest["files"].items():
        if not (path / name).is_file():
            raise CheckpointError(f"{name} is missing")
        if durable.fingerprint(path / name) != expected:
            raise CheckpointError(f"{name} is not as it was written (size or SHA-256 differs)")
    return int(manifest["update"])


def owned(tensor: torch.Tensor) -> torch.Tensor:
    """Return a contiguous copy on the CPU with memory of its own, as safetensors asks for."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _as_tensor(value: torch.Tensor | NDArray[Any]) -> torch.Tensor:
    return owned(value) if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))


def to_json(document: Mapping[str, Any]) -> bytes:
    """A document as bytes that are the same for the same values."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _of_the_system(error: SafetensorError, path: Path) -> OSError:
    """Unwrap safetensors' error of the system: "I/O error: No space left on device (os error 28)"."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else OSError(str(error))
