"""A learner on a replay in memory and a train step that only counts."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from learner.batches import BatchSource
from learner.checkpoint import CheckpointStore
from learner.config import LearnerConfig
from learner.learner import Learner
from learner.update.train_step import TrainStep
from learner.update.work import Finished, Launched, UpdateResult
from models.arrays import Weights
from models.config import NetworkConfig
from replay.items.counters import Counters
from replay.owner.restore import RestoreReport
from replay.shards.shard import Shard
from replay.types import Batch


class FakeSampler:
    """A replay that lives in memory: each `ingest` brings the next of `arrivals` items."""

    has_nothing = False
    counters = Counters()

    def __init__(
        self,
        arrivals: Iterable[int],
        *,
        min_size: int,
        samples_per_insert: float,
        batch_size: int,
        error_buffer: float,
    ) -> None:
        self.arrivals = list(arrivals)
        self.min_size, self.spi, self.batch_size = min_size, samples_per_insert, batch_size
        self.error_buffer = error_buffer
        self.inserted = self.sampled = 0
        self.events: list[str] = []
        self.updated: list[NDArray[np.float32]] = []
        self.dead: set[tuple[int, int]] = set()
        self.report = RestoreReport(exact=True, dropped=0, items=0)

    def ingest(self) -> int:
        added = self.arrivals.pop(0) if self.arrivals else 0
        self.inserted += added
        return added

    def can_sample(self) -> bool:
        after = self.inserted * self.spi - self.sampled - self.batch_size
        return self.inserted >= self.min_size and after >= self.min_size * self.spi - self.error_buffer

    def sample(self) -> Batch:
        assert self.can_sample()
        self.sampled += self.batch_size
        self.events.append("sample")
        size, observation = self.batch_size, np.zeros((self.batch_size, 1, 2, 2), np.uint8)
        ones = np.ones(size, np.float32)
        leaf = np.arange(size, dtype=np.int64) + self.sampled  # names the batch
        zeros = np.zeros(size, np.int64)
        return Batch(
            observation, zeros, ones, ones, observation, ones.astype(np.float64), ones, leaf, leaf, zeros
        )

    def update_priorities(self, leaf: ArrayLike, generation: ArrayLike, priorities: ArrayLike) -> None:
        self.events.append("priorities")
        self.updated.append(np.asarray(priorities, np.float32))

    def mark_dead(self, incarnations: set[tuple[int, int]]) -> None:
        self.dead |= incarnations

    def add_shard(self, shard: Shard) -> None:
        raise NotImplementedError("nothing here is on a shard")

    def metrics(self) -> dict[str, float]:
        return {"replay/size": float(self.inserted)}

    def rebuild(self) -> int:
        self.events.append("rebuild")
        return 0

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        self.events.append("state")
        return {"sampled": self.sampled, "inserted": self.inserted}, {"masses": np.arange(3.0)}

    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> RestoreReport:
        self.sampled, self.inserted = document["sampled"], document["inserted"]
        assert np.array_equal(arrays["masses"], np.arange(3.0))
        return self.report


class FakeTrainStep:
    """Counts steps and copies; its only parameter is the number of steps."""

    def __init__(
        self,
        *,
        losses: Iterable[float] = (),
        seconds: float = 0.0,
        threads: int = 1,
        events: list[str] | None = None,
    ) -> None:
        """With `events` updates stay under way, as on a GPU, and are noted there."""
        self._events = events
        self.observation_shape, self.num_actions = (1, 2, 2), 3
        self.steps = 0
        self.copied_at: list[int] = []
        self.batches: list[Batch] = []
        self.rates: list[float] = []
        self.team = SimpleNamespace(num_threads=threads)
        self.optimizer = SimpleNamespace(set_learning_rate=self.rates.append)
        self.pruned: list[tuple[int, float]] = []
        self.sparsity = SimpleNamespace(prune=lambda share: self.pruned.append((self.steps, share)))
        self._losses, self._seconds = list(losses), seconds

    def launch(self, batch: Batch, meanwhile: Callable[[], Batch | None]) -> Launched:
        if self._events is not None:
            self._events.append("launch")
        meanwhile()
        self.steps += 1
        self.batches.append(batch)
        time.sleep(self._seconds)
        loss = self._losses.pop(0) if self._losses else 0.5
        priorities = np.full(len(batch.leaf), self.steps, np.float32)
        result = UpdateResult(priorities=priorities, loss=loss, q_mean=1.5, grad_norm=2.5)
        return Finished(result) if self._events is None else FakeUnderWay(result, self._events)

    def copy_target(self) -> None:
        self.copied_at.append(self.steps)

    @property
    def stays_under_way(self) -> bool:
        return self._events is not None

    def begin_copy(self) -> Callable[[], NDArray[np.float32]]:
        parameters = np.array([self.steps], np.float32)
        return lambda: parameters

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"online/w": torch.tensor([float(self.steps)])}, {
            "steps": self.steps,
            "num_threads": self.team.num_threads,
        }

    def restore(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any], *, update: int) -> str:
        assert tensors["online/w"].item() == document["steps"] == update
        self.steps = document["steps"]
        saved, own = document["num_threads"], self.team.num_threads
        return "" if saved == own else f"threads were {saved}, are {own}"


class FakeUnderWay:
    """An update that is under way until it is taken."""

    is_under_way = True

    def __init__(self, result: UpdateResult, events: list[str]) -> None:
        self._result, self._events = result, events

    def take(self) -> UpdateResult:
        self._events.append("take")
        return self._result


class Setup:
    """A learner on fakes: batch 8 every 4 items (2 samples an item), warm-up 20."""

    def __init__(
        self,
        folder: Path,
        arrivals: Iterable[int],
        *,
        total: int,
        min_size: int = 20,
        error_buffer: float = 40.0,
        lockstep: bool = False,
        under_way: bool = False,
        **options: Any,
    ) -> None:
        folder.mkdir(exist_ok=True)
        train = {key: options.pop(key) for key in ("losses", "seconds", "threads") if key in options}
        config = LearnerConfig(batch_size=8, update_period=4, **options)
        self.sampler = FakeSampler(
            arrivals, min_size=min_size, samples_per_insert=2.0, batch_size=8, error_buffer=error_buffer
        )
        self.train_step = FakeTrainStep(**train, events=self.sampler.events if under_way else None)
        self.published: list[Weights] = []
        self.store = CheckpointStore(folder / "checkpoints")
        self.learner = Learner(
            config,
            NetworkConfig(),
            batches=BatchSource(
                config, self.sampler, min_size=min_size, total_env_steps=total, lockstep=lockstep
            ),
            # A learner takes a TrainStep itself: of its fake mypy checks only the methods' own types.
            train_step=cast(TrainStep, self.train_step),
            publish=self.publish,
            checkpoints=self.store,
            run_document={"name": "test"},
        )

    def publish(self, weights: Weights) -> None:
        self.published.append(weights)
        self.sampler.events.append(f"publish {weights.version}")


def never() -> bool:
    return False
