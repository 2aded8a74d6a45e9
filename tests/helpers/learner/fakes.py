"""A learner on a replay in memory and a train step that only counts."""

import time
from types import SimpleNamespace

import numpy as np
import torch

from learner.batches import BatchSource
from learner.checkpoint import CheckpointStore
from learner.config import LearnerConfig
from learner.learner import Learner
from models.config import NetworkConfig
from replay.owner.restore import RestoreReport
from replay.types import Batch


class FakeSampler:
    """A replay that lives in memory: each `ingest` brings the next of `arrivals` items."""

    has_nothing = False

    def __init__(self, arrivals, *, min_size, samples_per_insert, batch_size, error_buffer):
        self.arrivals = list(arrivals)
        self.min_size, self.spi, self.batch_size = min_size, samples_per_insert, batch_size
        self.error_buffer = error_buffer
        self.inserted = self.sampled = 0
        self.events: list[str] = []
        self.updated: list[np.ndarray] = []
        self.dead: set[tuple[int, int]] = set()
        self.report = RestoreReport(exact=True, dropped=0, items=0)

    def ingest(self):
        added = self.arrivals.pop(0) if self.arrivals else 0
        self.inserted += added
        return added

    def can_sample(self):
        after = self.inserted * self.spi - self.sampled - self.batch_size
        return self.inserted >= self.min_size and after >= self.min_size * self.spi - self.error_buffer

    def sample(self):
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

    def update_priorities(self, leaf, generation, priorities):
        self.events.append("priorities")
        self.updated.append(priorities)

    def mark_dead(self, incarnations):
        self.dead |= incarnations

    def metrics(self):
        return {"replay/size": float(self.inserted)}

    def rebuild(self):
        self.events.append("rebuild")

    def state(self):
        self.events.append("state")
        return {"sampled": self.sampled, "inserted": self.inserted}, {"masses": np.arange(3.0)}

    def restore(self, document, arrays):
        self.sampled, self.inserted = document["sampled"], document["inserted"]
        assert np.array_equal(arrays["masses"], np.arange(3.0))
        return self.report


class FakeTrainStep:
    """Counts steps and copies; its only parameter is the number of steps."""

    def __init__(self, *, losses=(), seconds=0.0, threads=1):
        self.observation_shape, self.num_actions = (1, 2, 2), 3
        self.steps, self.copied_at, self.batches = 0, [], []
        self.rates = []
        self.team = SimpleNamespace(num_threads=threads)
        self.optimizer = SimpleNamespace(set_learning_rate=self.rates.append)
        self._losses, self._seconds = list(losses), seconds

    def step(self, batch, meanwhile):
        meanwhile()
        self.steps += 1
        self.batches.append(batch)
        time.sleep(self._seconds)
        loss = self._losses.pop(0) if self._losses else 0.5
        priorities = np.full(len(batch.leaf), self.steps, np.float32)
        return SimpleNamespace(priorities=priorities, loss=loss, q_mean=1.5, grad_norm=2.5)

    def copy_target(self):
        self.copied_at.append(self.steps)

    def parameters(self):
        return np.array([self.steps], np.float32)

    def state(self):
        return {"online/w": torch.tensor([float(self.steps)])}, {
            "steps": self.steps,
            "num_threads": self.team.num_threads,
        }

    def restore(self, tensors, document):
        assert tensors["online/w"].item() == document["steps"]
        self.steps = document["steps"]


class Setup:
    """A learner on fakes: batch 8 every 4 items (2 samples an item), warm-up 20."""

    def __init__(self, folder, arrivals, *, total, min_size=20, error_buffer=40.0, lockstep=False, **options):
        folder.mkdir(exist_ok=True)
        train = {key: options.pop(key) for key in ("losses", "seconds", "threads") if key in options}
        config = LearnerConfig(batch_size=8, update_period=4, **options)
        self.sampler = FakeSampler(
            arrivals, min_size=min_size, samples_per_insert=2.0, batch_size=8, error_buffer=error_buffer
        )
        self.train_step = FakeTrainStep(**train)
        self.published = []
        self.store = CheckpointStore(folder / "checkpoints")
        self.learner = Learner(
            config,
            NetworkConfig(),
            batches=BatchSource(
                config, self.sampler, min_size=min_size, total_env_steps=total, lockstep=lockstep
            ),
            train_step=self.train_step,
            publish=self.publish,
            checkpoints=self.store,
            run_document={"name": "test"},
        )

    def publish(self, weights):
        self.published.append(weights)
        self.sampler.events.append(f"publish {weights.version}")


def never():
    return False
