"""Small networks, batches and whole runs of a learner for its diagnoses to look at."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learner.batches import BatchSource
from learner.checkpoint import CheckpointStore
from learner.config import LearnerConfig, ScalarLoss
from learner.learner import Learner
from learner.update.train_step import TrainStep
from models.arrays import Weights
from models.config import NetworkConfig
from models.precision import Precision
from replay.items.counters import Counters
from replay.owner.restore import RestoreReport
from replay.shards.shard import Shard
from replay.types import Batch

SHAPE = (2, 36, 36)
NETWORK = NetworkConfig(
    encoder="nature",
    num_experts=3,
    expert_hidden_units=8,
    dense_hidden_units=8,
    num_atoms=5,
    num_quantiles=4,
)
SIZE, UPDATES = 16, 6
HEADS: dict[str, dict[str, Any]] = {
    "soft_moe": {},
    "top_k_moe": {"head": "top_k_moe", "importance_loss_weight": 0.1, "router_noise": 1.0},
    "dense": {"head": "dense", "values": "scalar", "dueling": False},
    "pooled": {"head": "pooled"},
    "quantile": {"values": "quantile"},
    "per_feature_map": {"tokens": "per_feature_map", "noisy": False},
}


def make_batch(rng: np.random.Generator, size: int = SIZE) -> Batch:
    return Batch(
        observation=rng.integers(0, 256, (size, *SHAPE), dtype=np.uint8),
        action=rng.integers(0, 3, size),
        reward=rng.normal(size=size).astype(np.float32),
        discount=rng.choice([0.0, 0.97], size).astype(np.float32),
        next_observation=rng.integers(0, 256, (size, *SHAPE), dtype=np.uint8),
        probability=np.full(size, 1 / size),
        importance_weight=rng.uniform(0.1, 1, size).astype(np.float32),
        leaf=np.arange(size),
        generation=np.zeros(size, np.int64),
        weights_version=np.zeros(size, np.int64),
    )


def make_step(
    threads: int = 1, precision: Precision = "float32", loss: ScalarLoss = "huber", **network: Any
) -> TrainStep:
    config = LearnerConfig(batch_size=SIZE, precision=precision, cpus=threads, loss=loss)
    changed = dataclasses.replace(NETWORK, **network)
    return TrainStep(changed, config, num_actions=3, observation_shape=SHAPE, seed=4, device="cpu")


class MemorySampler:
    """All items are there from the start; what is drawn depends on the priorities given back."""

    has_nothing = False
    counters = Counters()

    def __init__(self, total: int) -> None:
        self.inserted, self.sampled, self.sum = total, 0, 0.0
        self.batches: list[Batch] = []

    def ingest(self) -> int:
        return 0

    def can_sample(self) -> bool:
        return True

    def sample(self) -> Batch:
        self.sampled += SIZE
        batch = make_batch(np.random.default_rng([self.sampled, int(1e6 * self.sum)]))
        self.batches.append(batch)
        return batch

    def update_priorities(self, leaf: ArrayLike, generation: ArrayLike, priorities: ArrayLike) -> None:
        self.sum += float(np.asarray(priorities).sum())

    def mark_dead(self, incarnations: set[tuple[int, int]]) -> None:
        raise NotImplementedError("no actor writes here")

    def add_shard(self, shard: Shard) -> None:
        raise NotImplementedError("nothing here is on a shard")

    def rebuild(self) -> int:
        raise NotImplementedError("nothing is resumed here")

    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> RestoreReport:
        raise NotImplementedError("nothing is resumed here")

    def metrics(self) -> dict[str, float]:
        return {"replay/size": float(self.inserted)}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        return {}, {"sum": np.array([self.sum])}


def train(
    folder: Path, period: int, *, checkpoint_seconds: float = 0.0, **options: Any
) -> tuple[Learner, TrainStep, MemorySampler, list[Weights]]:
    """A learner's whole run of UPDATES updates."""
    folder.mkdir(exist_ok=True)
    train_step = make_step(**options)
    sampler = MemorySampler(10 + UPDATES)
    config = dataclasses.replace(
        train_step.config,
        update_period=1,
        diagnostics_period=period,
        checkpoint_seconds=checkpoint_seconds,
    )
    published: list[Weights] = []
    learner = Learner(
        config,
        train_step.online_network.config,
        batches=BatchSource(config, sampler, min_size=10, total_env_steps=10 + UPDATES),
        train_step=train_step,
        publish=published.append,
        checkpoints=CheckpointStore(folder / "checkpoints"),
        run_document={},
    )
    assert learner.run(lambda: False) == "finished"
    assert learner.updates == UPDATES
    return learner, train_step, sampler, published
