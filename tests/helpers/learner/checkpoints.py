"""Small checkpoints whose tensors and document tell which update they are of."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from learner.checkpoint import CheckpointStore


def tensors(value: float) -> dict[str, Any]:
    return {
        "online/weight": torch.full((3, 4), value),
        "optimizer/step": torch.tensor(value),
        "sampler/masses": np.arange(5, dtype=np.float64) + value,
        "sampler/leaf": np.arange(4, dtype=np.int64),
        "sampler/empty": np.zeros((0, 3), np.int64),
    }


def save(store: CheckpointStore, update: int) -> Path:
    return store.save(update, tensors(update), {"update": update, "rng": 2**127 + 1, "price": 0.1})
