"""The learner: draws batches, trains, sends priorities back, publishes weights and writes checkpoints."""

import copy
import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from learner.checkpoint import CheckpointStore, with_prefix
from learner.checkpoint_writer import CheckpointWriter, Snapshot
from learner.config import LearnerConfig
from learner.diagnostics.diagnostics import Diagnostics
from learner.errors import LearnerError
from learner.telemetry import MetricsBoard, SpeedWindow
from learner.update.train_step import TrainStep
from learner.update.work import UpdateResult
from models.arrays import Weights
from models.config import NetworkConfig
from replay.config import ReplayConfig
from replay.errors import NotEnoughData
from replay.sampler import RestoreReport, Sampler
from replay.shards.shard import Shard
from replay.types import Batch

logger = logging.getLogger(__name__)

LOOK_SECONDS = (0.05, 0.2)
"""While there is enough to draw, shortest and longest time from one look for new segments to the next."""
LOOK_EASE = 50
"""In between, so many times what the last look took: its round trips cost most of it where little is new."""
WAIT_SECONDS = (0.001, 0.020)
"""First and longest wait when nothing may be drawn; it doubles in between."""


class Learner:
    """A run's learner. `run`, `save`, `restore` belong to one thread, the other methods to all."""

    def __init__(
        self,
        config: LearnerConfig,
        network: NetworkConfig,
        replay: ReplayConfig,
        *,
        sampler: Sampler,
        train_step: TrainStep,
        publish: Callable[[Weights], None],
        checkpoints: CheckpointStore,
        total_env_steps: int,
        run_document: dict[str, Any],
        lockstep: bool = False,
        note: Callable[[str], None] = logger.warning,
    ) -> None:
        """`note` is told what people should hear of, such as a resume that is not exact; by any thread."""
        self._config, self._network, self._replay = config, network, replay
        self._sampler, self._train_step = sampler, train_step
        self._publish_weights, self._checkpoints = publish, checkpoints
        self._total_env_steps = total_env_steps
        self._run_document = run_document
        self._lockstep, self._note = lockstep, note
        self.updates = 0
        self.weights_version = -1
        self._published_env_steps = -1
        self._restored_env_steps = 0
        self._num_checkpoints = 0
        self._next_batch: Batch | None = None
        self._in_flight: tuple[Batch, UpdateResult] | None = None
        self._next_ingest = 0.0
        self._wait_seconds = WAIT_SECONDS[0]
        self._speed = SpeedWindow()
        self._board = MetricsBoard()
        self._diagnostics = Diagnostics(
            train_step, config.diagnostics_period, folder=checkpoints.folder.parent, write=self._board.write
        )
        self._writer = CheckpointWriter(checkpoints, note=note)
        self._lock = threading.Lock()
        self._dead: set[tuple[int, int]] = set()
        self._new_shards: list[Shard] = []

    def run(self, should_stop: Callable[[], bool]) -> Literal["finished", "stopped"]:
        """Trains until the run's env steps are inserted and learned from, or until told to stop.

        Either way it ends with a checkpoint. Raises LearnerError on a loss that is not finite (the batch is
        saved in the run's folder), CheckpointNotWritten when the last checkpoint cannot be saved, and what
        the sampler raises when its shards are gone.
        """
        try:
            return self._run(should_stop)
        finally:
            self._writer.close()

    def _run(self, should_stop: Callable[[], bool]) -> Literal["finished", "stopped"]:
        self._checkpoints.remove_leftovers()
        self._speed = SpeedWindow()
        self._publish()
        while not self.finished:
            if should_stop():
                self.save()
                return "stopped"
            batch = self._take_batch()
            if batch is None:
                self._idle()
                continue
            with self._diagnostics.watch(self.updates + 1, self._sampler.inserted, batch):
                result = self._train_step.step(batch, meanwhile=self._draw_ahead)
            self._refuse_nan(batch, result)
            self._in_flight = (batch, result)
            self.updates += 1
            if self.updates % self._config.target_update_period == 0:
                self._train_step.copy_target()
            if self.updates % self._config.publish_period == 0 and not self._lockstep:
                self._publish()
            if self.updates % self._config.checkpoint_period == 0:
                self._writer.submit(self._snapshot())
            self._log(batch, result)
        self._publish()
        self.save()
        return "finished"

    @property
    def finished(self) -> bool:
        """All env steps are in and the samples have caught up with them, to within one batch.

        Or nothing is left that could ever be sampled.
        """
        inserted = self._sampler.inserted
        done = inserted >= self._total_env_steps and (not self._earned(inserted) or self._sampler.has_nothing)
        return done and self._next_batch is None

    def metrics(self) -> dict[str, float]:
        """The latest metrics of learner and sampler under the run's metric names; any thread may call it."""
        return self._board.read()

    def mark_dead(self, incarnations: set[tuple[int, int]]) -> None:
        """Gives back the allowance of dead (actor, incarnation) pairs at the loop's next turn."""
        with self._lock:
            self._dead |= incarnations

    def add_shard(self, shard: Shard) -> None:
        """Uses one more shard from the loop's next turn on; its index must be the next one."""
        with self._lock:
            self._new_shards.append(shard)

    def save(self) -> Path:
        """Writes a checkpoint of everything that a bit-identical continuation needs; returns its folder.

        Raises CheckpointNotWritten.
        """
        path = self._writer.finish(self._snapshot())
        self._write_metrics()
        return path

    def restore(self) -> RestoreReport | None:
        """Goes back to the newest whole checkpoint; without one indexes what the shards hold, returns None.

        Raises CheckpointError when the checkpoint is of another network.
        """
        checkpoint = self._checkpoints.load_newest()
        if checkpoint is None:
            if size := self._sampler.rebuild():
                self._note(f"no whole checkpoint: a new network goes on with {size:,} transitions in replay")
            return None
        checkpoint.expect_network(
            self._network, self._train_step.observation_shape, self._train_step.num_actions
        )
        document = checkpoint.document
        self._train_step.restore(checkpoint.tensors, document["train_step"])
        report = self._sampler.restore(document["sampler"], checkpoint.arrays("sampler"))
        drawn = checkpoint.arrays("next_batch")
        same_size = bool(drawn) and len(drawn["leaf"]) == self._config.batch_size
        self._next_batch = Batch(**drawn) if same_size else None
        self.updates = int(document["update"])
        self._restored_env_steps = int(document["env_steps"])
        self.weights_version = int(document["weights_version"])
        self._num_checkpoints = int(document["checkpoints"])
        name, steps, size = checkpoint.path.name, self._sampler.inserted, report.items
        self._note(f"resuming at {steps:,} env steps with {size:,} transitions in replay, from {name}")
        if not report.exact:
            self._note(f"resume from {name} is not exact: {report.difference}")
        if (threads := document["train_step"].get("num_threads")) not in (None, torch.get_num_threads()):
            self._note(f"resume from {name} is not bit-exact: it was made with {threads} threads")
        return report

    def _snapshot(self) -> Snapshot:
        """Copies of all that a checkpoint holds; the writer may take its time with them."""
        self._update_priorities()
        tensors, train_document = self._train_step.state()
        sampler_document, sampler_arrays = self._sampler.state()
        self._num_checkpoints += 1
        document = {
            "update": self.updates,
            "env_steps": self._sampler.inserted,
            "sampled": self._sampler.sampled,
            "weights_version": self.weights_version,
            "checkpoints": self._num_checkpoints,
            "network": dataclasses.asdict(self._network),
            "observation_shape": list(self._train_step.observation_shape),
            "num_actions": self._train_step.num_actions,
            "train_step": train_document,
            "sampler": sampler_document,
            "config": self._run_document,
        }
        tensors |= with_prefix(sampler_arrays, "sampler")
        if self._next_batch is not None:
            drawn = {name: np.array(value) for name, value in vars(self._next_batch).items()}
            tensors |= with_prefix(drawn, "next_batch")
        return Snapshot(self.updates, tensors, copy.deepcopy(document))

    def _earned(self, inserted: int) -> bool:
        """Whether `inserted` items pay for one more batch at the exact ratio (in whole numbers)."""
        return (self._sampler.sampled + self._config.batch_size) * self._config.update_period <= (
            inserted - self._replay.min_size
        ) * self._config.batch_size

    def _may_draw(self) -> bool:
        """The limiter's word, and never more than the whole run earns (in lockstep: than was earned)."""
        inserted = self._sampler.inserted
        if not self._lockstep:
            inserted = max(inserted, self._total_env_steps)
        return self._earned(inserted) and self._sampler.can_sample()

    def _take_batch(self) -> Batch | None:
        """The batch that was drawn ahead, else a new one if one may be drawn."""
        if self._next_batch is None:
            self._update_priorities()
            self._ingest()
            return self._draw()
        batch, self._next_batch = self._next_batch, None
        return batch

    def _draw_ahead(self) -> Batch | None:
        """Draws the next batch while an update is computed, whose priorities it cannot know yet."""
        if self._config.updates_in_flight and not self._lockstep:
            self._update_priorities()
            self._ingest()
            self._next_batch = self._draw()
        return self._next_batch

    def _update_priorities(self) -> None:
        """Those of the last update, if they are not in yet."""
        if self._in_flight is not None:
            (batch, result), self._in_flight = self._in_flight, None
            self._sampler.update_priorities(batch.leaf, batch.generation, result.priorities)

    def _draw(self) -> Batch | None:
        """A batch if one may be drawn; None as well when all that was indexed turned out to be gone."""
        try:
            return self._sampler.sample() if self._may_draw() else None
        except NotEnoughData:
            return None

    def _ingest(self) -> None:
        now = time.monotonic()
        if self._may_draw() and (self._lockstep or now < self._next_ingest):
            return
        if self._lockstep and self._sampler.inserted > self._published_env_steps:
            self._publish()  # all that was earned is learned: the actor may go on
        with self._lock:
            dead, self._dead = self._dead, set()
            new_shards, self._new_shards = self._new_shards, []
        if dead:
            self._sampler.mark_dead(dead)
        for shard in new_shards:
            self._sampler.add_shard(shard)
        begun = time.monotonic()
        if arrived := self._sampler.ingest():
            self._wait_seconds = WAIT_SECONDS[0]
            self._speed.count(arrived=arrived)
        ended = time.monotonic()
        self._next_ingest = ended + seconds_to_next_look(ended - begun)

    def _idle(self) -> None:
        """Nothing may be drawn: waits a little, longer each time in a row."""
        start = time.monotonic()
        time.sleep(self._wait_seconds)
        self._wait_seconds = min(2 * self._wait_seconds, WAIT_SECONDS[1])
        self._speed.count(waited=time.monotonic() - start)
        if self._board.due():
            self._write_metrics()

    def _publish(self) -> None:
        self.weights_version += 1
        self._published_env_steps = self._sampler.inserted
        parameters = self._train_step.parameters()
        self._publish_weights(
            Weights(self.weights_version, parameters, self._published_env_steps, self.updates)
        )

    def _refuse_nan(self, batch: Batch, result: UpdateResult) -> None:
        """The run stops before anything is published or saved; the last checkpoint is from before.

        With a loss that is not finite the weights are as they were, with such a gradient they are lost.
        """
        broken = "loss" if not math.isfinite(result.loss) else "gradient's norm"
        value = result.loss if broken == "loss" else result.grad_norm
        if math.isfinite(value):
            return
        raise LearnerError(f"the {broken} of update {self.updates} is {value}; {self._keep_batch(batch)}")

    def _keep_batch(self, batch: Batch) -> str:
        """Save a batch for people to look at; says where it is, or why it is not."""
        path = self._checkpoints.folder.parent / f"nan-batch-{self.updates:09d}.npz"
        arrays = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **arrays)
        except OSError as error:
            return f"its batch cannot be saved: {error.strerror}"
        return f"its batch is in {path}"

    def _log(self, batch: Batch, result: UpdateResult) -> None:
        self._speed.count(updates=1)
        self._wait_seconds = WAIT_SECONDS[0]
        if not self._board.due():
            return
        self._write_metrics()
        age = float(np.mean(self.weights_version - batch.weights_version))
        self._board.write(
            {
                "learner/loss": result.loss,
                "learner/q_mean": result.q_mean,
                "learner/grad_norm": result.grad_norm,
                "learner/priority_max": float(np.max(result.priorities)),
                "learner/sample_age": age,
            }
        )

    def _write_metrics(self) -> None:
        own = {
            "progress/env_steps": float(self._sampler.inserted),
            "progress/updates": float(self.updates),
            "progress/restored_env_steps": float(self._restored_env_steps),
            "speed/updates_per_s": self._speed.updates_per_s,
            "learner/waiting_share": self._speed.waiting_share,
            "replay/burst_updates": self._speed.largest_arrival / self._config.update_period,
            "learner/weights_version": float(self.weights_version),
            "learner/checkpoints": float(self._num_checkpoints),
        }
        self._board.write(self._sampler.metrics() | own)


def seconds_to_next_look(took: float) -> float:
    """How long to leave the shards alone after a look that took so many seconds."""
    shortest, longest = LOOK_SECONDS
    return min(max(LOOK_EASE * took, shortest), longest)
