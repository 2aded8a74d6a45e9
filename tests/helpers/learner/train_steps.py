"""A small TrainStep and batches for it."""

import dataclasses
from typing import Any

import numpy as np

from learner.config import LearnerConfig
from learner.update.train_step import TrainStep
from models.config import NetworkConfig
from replay.types import Batch

SHAPE = (2, 44, 44)
NETWORK = NetworkConfig(encoder="nature", padding="valid", expert_hidden_units=16, num_atoms=11)


def make_step(seed: int = 0, network: NetworkConfig = NETWORK, **changes: Any) -> TrainStep:
    config = LearnerConfig(**{"precision": "float32", **changes})
    return TrainStep(network, config, num_actions=3, observation_shape=SHAPE, seed=seed, device="cpu")


def make_batch(seed: int = 0, size: int = 4, **changes: Any) -> Batch:
    rng = np.random.default_rng(seed)
    batch = Batch(
        observation=rng.integers(0, 256, (size, *SHAPE), dtype=np.uint8),
        action=rng.integers(0, 3, size),
        reward=rng.normal(size=size).astype(np.float32),
        discount=rng.choice([0.0, 0.97], size).astype(np.float32),
        next_observation=rng.integers(0, 256, (size, *SHAPE), dtype=np.uint8),
        probability=np.full(size, 0.1),
        importance_weight=rng.uniform(0.1, 1, size).astype(np.float32),
        leaf=np.arange(size),
        generation=np.zeros(size, np.int64),
        weights_version=np.zeros(size, np.int64),
    )
    return dataclasses.replace(batch, **changes)
