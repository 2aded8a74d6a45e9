"""A golden case: what the paper's reference code computed for one network and batch.

A case is an `.npz` of arrays; `meta` is JSON as bytes. tests/golden/README.md describes each array.
"""

import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apexpert.errors import ApexpertError, one_line
from models.reference.options import count, number
from replay.types import Batch

BATCH_ARRAYS = ("action", "reward", "terminal", "loss_weight")
# Raised by numpy and json for files of another kind, or cut short.
UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


class CaseError(ApexpertError):
    """A case that cannot be read, is incomplete or contradicts itself; the message is one line."""


@dataclass(frozen=True)
class GoldenCase:
    """One case; every method raises CaseError, or UnsupportedOption, naming the array or option at fault."""

    name: str
    meta: dict[str, Any]
    arrays: dict[str, NDArray[Any]] = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> "GoldenCase":
        """Read a case from its file."""
        try:
            with np.load(path) as file:
                arrays: dict[str, Any] = {key: file[key] for key in file.files}
            meta = json.loads(arrays.pop("meta").tobytes())
        except KeyError:
            raise CaseError("meta: is missing") from None
        except FileNotFoundError:
            raise CaseError("no such file") from None
        except UNREADABLE as error:
            raise CaseError(f"not a golden case: {one_line(error)}") from error
        if not isinstance(meta, dict):
            raise CaseError("meta: is not a JSON object")
        for key, array in arrays.items():
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "bfiu":
                raise CaseError(f"{key}: not an array of numbers")
        return cls(str(meta.get("name", path.stem)), meta, arrays)

    def section(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return the arrays under `prefix/`, without the prefix in their names."""
        return {k.removeprefix(f"{prefix}/"): v for k, v in self.arrays.items() if k.startswith(f"{prefix}/")}

    def batch(self) -> Batch:
        """Return the case's batch; its discount is the reference's cumulative gamma, 0 after a true end."""
        size = len(self.observation())
        action, reward, terminal, weight = (self._array(name, (size,)) for name in BATCH_ARRAYS)
        num_actions = count(self.meta, "num_actions")
        if action.dtype.kind not in "iu" or action.min() < 0 or action.max() >= num_actions:
            raise CaseError(f"action: not integers from 0 to {num_actions - 1}")
        gamma = number(self.meta, "cumulative_gamma")
        observation, next_observation = self.observation(), self.observation("next_state")
        if next_observation.shape != observation.shape:
            raise CaseError("next_state: not of the shape of state")
        return Batch(
            observation=observation,
            action=action.astype(np.int64),
            reward=reward.astype(np.float32),
            discount=(gamma * (1.0 - terminal)).astype(np.float32),
            next_observation=next_observation,
            # An update does not read how its batch was drawn: any values do.
            probability=np.full(size, 1.0 / size),
            importance_weight=weight.astype(np.float32),
            leaf=np.arange(size),
            generation=np.zeros(size, np.int64),
            weights_version=np.zeros(size, np.int64),
        )

    def observation(self, name: str = "state") -> NDArray[np.uint8]:
        """Return the reference's (B, H, W, K) observation as (B, K, H, W)."""
        state = self._array(name)
        if state.dtype != np.uint8 or state.ndim != 4 or not state.size:
            raise CaseError(f"{name}: {state.dtype} {state.shape}, not uint8 (B, H, W, K)")
        return np.ascontiguousarray(state.transpose(0, 3, 1, 2))

    def _array(self, name: str, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
        if name not in self.arrays:
            raise CaseError(f"{name}: is missing")
        array = self.arrays[name]
        if shape is not None and array.shape != shape:
            raise CaseError(f"{name}: shape {array.shape}, not {shape}")
        return array
