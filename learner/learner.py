"""The learner: draws batches, trains, sends priorities back, publishes weights and writes checkpoints."""

import copy
import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from learner.batches import BatchSource
from learner.checkpoint import CheckpointStore, with_prefix
from learner.checkpoint_clock import CheckpointClock
from learner.checkpoint_writer import CheckpointWriter, Snapshot
from learner.config import LearnerConfig
from learner.diagnostics.diagnostics import Diagnostics
from learner.errors import LearnerError
from learner.kept_batch import keep_batch
from learner.publisher import Copy, Publisher
from learner.telemetry import MetricsBoard, SpeedWindow
from learner.update.train_step import TrainStep
from learner.update.work import Launched, UpdateResult
from models.arrays import Weights
from models.config import NetworkConfig
from replay.sampler import RestoreReport
from replay.types import Batch

logger = logging.getLogger(__name__)


class Learner:
    """A run's learner. `run`, `save` and `restore` belong to one thread, the other methods to all."""

    def __init__(
        self,
        config: LearnerConfig,
        network: NetworkConfig,
        *,
        batches: BatchSource,
        train_step: TrainStep,
        publish: Callable[[Weights], None],
        checkpoints: CheckpointStore,
        run_document: dict[str, Any],
        note: Callable[[str], None] = logger.warning,
        saved: Callable[[Snapshot], object] = lambda snapshot: None,
    ) -> None:
        """`run_document` is stored with each checkpoint; `note` gets lines for users, from any thread;
        `saved` gets the content of each checkpoint once written."""
        self._config, self._network = config, network
        self.batches, self._replay, self._train_step = batches, batches.replay, train_step
        self._checkpoints = checkpoints
        self._publisher = Publisher(publish, in_background=train_step.stays_under_way)
        self._run_document, self._note = run_document, note
        self.updates = 0
        self.weights_version = -1
        self._published_env_steps = -1
        self._launched: tuple[Batch, Launched] | None = None  # Until its result is taken.
        self._restored_env_steps = 0
        self._num_checkpoints = 0
        self._clock = CheckpointClock(config)
        self._board = MetricsBoard()
        self._diagnostics = Diagnostics(
            train_step, config.diagnostics_period, folder=checkpoints.folder.parent, write=self._board.write
        )
        self._writer = CheckpointWriter(checkpoints, note=note, saved=saved)

    def run(self, should_stop: Callable[[], bool]) -> Literal["finished", "stopped"]:
        """Trains until the run's env steps are inserted and learned from, or until told to stop.

        Either way it ends with a checkpoint. Raises LearnerError on a loss that is not finite (the batch is
        saved in the run's folder), CheckpointNotWritten when the last checkpoint cannot be saved, and what
        the sampler raises when its shards are gone.
        """
        try:
            return self._run(should_stop)
        finally:
            # The last weights first: whoever waits for the last checkpoint may read them then.
            try:
                self._publisher.close()
            finally:
                self._writer.close()

    def _run(self, should_stop: Callable[[], bool]) -> Literal["finished", "stopped"]:
        self._checkpoints.remove_leftovers()
        self.batches.speed = SpeedWindow()
        self._clock.restart(self.updates)
        # Actors wait for their first weights, and store nothing before.
        self._publish()
        while not self.batches.finished:
            if should_stop():
                self.save()
                return "stopped"
            if self.batches.ahead is None:
                self._take()  # Draw nothing without its priorities.
            batch = self.batches.next(all_learned=self._publish_news)
            if batch is None:
                self._save_if_due()
                self.batches.wait()
                if self._board.due():
                    self._write_metrics()
                continue
            self._update(batch)
        self._take()
        # Published before the last checkpoint, so that no resume uses this version again.
        self._publish()
        self.save()
        return "finished"

    def _update(self, batch: Batch) -> None:
        """Make one update, or launch it on a GPU, which is not waited for, with all that is due after it."""
        # By the items inserted: a resume then continues the schedule exactly (decision 0029).
        self._train_step.optimizer.set_learning_rate(self._config.learning_rate_at(self.batches.progress))
        with self._diagnostics.watch(self.updates + 1, self._replay.inserted, batch):
            launched = self._train_step.launch(batch, self._take_and_draw)
        self._launched = batch, launched
        self.updates += 1
        if not launched.is_under_way:
            self._take()
        # Before the target copy and the checkpoint, which hold the zeros then.
        if self.updates % self._config.pruning_period == 0:
            self._train_step.sparsity.prune(self._config.pruned_at(self.batches.progress))
        if self.updates % self._config.target_update_period == 0:
            self._train_step.copy_target()
        # In lockstep `next` publishes, once all that is inserted was learned from.
        is_due = self.updates % self._config.publish_period == 0 and not self.batches.lockstep
        if is_due and not self._publisher.is_soon:
            self._publish()
        # After the target copy, which a resumed learner does not make again for this update.
        self._save_if_due()

    def _take_and_draw(self) -> Batch | None:
        """Take the result of the update before, then draw the next batch, which knows its priorities."""
        self._take()
        return self.batches.draw_ahead()

    def _take(self) -> None:
        """Take the result of the last update launched, unless it was taken."""
        if self._launched is None:
            return
        (batch, launched), self._launched = self._launched, None
        result = launched.take()
        self._refuse_nan(batch, result)
        self.batches.learned(batch, result.priorities)
        self._log(batch, result)

    def metrics(self) -> dict[str, float]:
        """The latest metrics of learner and sampler under the run's metric names; any thread may call it."""
        return self._board.read()

    def ask_to_save(self) -> None:
        """Have the loop write a checkpoint as soon as it can; any thread may call this."""
        self._clock.ask()

    def _save_if_due(self) -> None:
        if self._clock.is_due(self.updates):
            self._writer.submit(self._snapshot())

    def save(self) -> Path:
        """Writes a checkpoint of everything that a bit-identical continuation needs; returns its folder.

        Raises CheckpointNotWritten.
        """
        path = self._writer.finish(self._snapshot())
        self._write_metrics()
        return path

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with these weights of the online network, by parameter name, in both networks.

        What is held at zero stays zero; optimizer and noise are fresh. Raises KeyError for a missing one.
        """
        tensors, document = self._train_step.state()
        for key in [key for key in tensors if key.startswith(("online/", "target/"))]:
            name = key.partition("/")[2]
            zeros = tensors.get(f"zeros/{name.removesuffix('_sigma')}")
            given = weights[name].to(tensors[key].dtype)
            tensors[key] = given if zeros is None else given.masked_fill(zeros, 0.0)
        self._train_step.restore(tensors, document)

    def restore(self) -> RestoreReport | None:
        """Goes back to the newest whole checkpoint; without one indexes what the shards hold, returns None.

        Raises CheckpointError when the checkpoint is of another network.
        """
        checkpoint = self._checkpoints.load_newest()
        if checkpoint is None:
            if size := self._replay.rebuild():
                self._note(f"no whole checkpoint: a new network continues with {size:,} transitions")
            return None
        checkpoint.expect_network(
            self._network, self._train_step.observation_shape, self._train_step.num_actions
        )
        document = checkpoint.document
        difference = self._train_step.restore(
            checkpoint.tensors, document["train_step"], update=int(document["update"])
        )
        report = self._replay.restore(document["sampler"], checkpoint.arrays("sampler"))
        drawn = checkpoint.arrays("next_batch")
        same_size = bool(drawn) and len(drawn["leaf"]) == self._config.batch_size
        self.batches.ahead = Batch(**drawn) if same_size else None
        self.updates = int(document["update"])
        self._restored_env_steps = int(document["env_steps"])
        self.weights_version = int(document["weights_version"])
        self._num_checkpoints = int(document["checkpoints"])
        name, steps, size = checkpoint.path.name, self._replay.inserted, report.items
        self._note(f"resuming at {steps:,} env steps with {size:,} transitions in replay, from {name}")
        if report.refill:
            refill = f"{report.refill:,} env steps fill it before the next update, and earn none themselves"
            self._note(f"the replay holds {size:,} of {self._replay.inserted:,} transitions: {refill}")
        if not report.exact:
            self._note(f"resume from {name} is not exact: {report.difference}")
        if difference:
            self._note(f"resume from {name} is not bit-exact: {difference}")
        return report

    def _snapshot(self) -> Snapshot:
        """Copies of all that a checkpoint holds; the writer may take its time with them."""
        # The replay's state must hold the priorities of all updates that the snapshot counts.
        self._take()
        self.batches.send_priorities()
        tensors, train_document = self._train_step.state()
        sampler_document, sampler_arrays = self._replay.state()
        self._num_checkpoints += 1
        self._clock.restart(self.updates)
        document = {
            "update": self.updates,
            "env_steps": self._replay.inserted,
            "sampled": self._replay.sampled,
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
        if self.batches.ahead is not None:
            drawn = {name: np.array(value) for name, value in vars(self.batches.ahead).items()}
            tensors |= with_prefix(drawn, "next_batch")
        return Snapshot(self.updates, tensors, copy.deepcopy(document))

    def _publish_news(self) -> None:
        """Publish, unless the last weights knew of all that is inserted: in lockstep actors wait for it."""
        if self._replay.inserted > self._published_env_steps:
            self._publish()

    def _publish(self) -> None:
        self.weights_version += 1
        self._published_env_steps = self._replay.inserted
        fetch = self._train_step.begin_copy()
        self._publisher.publish(Copy(self.weights_version, self._published_env_steps, self.updates, fetch))

    def _refuse_nan(self, batch: Batch, result: UpdateResult) -> None:
        """Stop the run over an update that spared the weights, before its priorities are sent.

        Of the updates it is the last that was counted, and on a GPU the one launched after it is lost.
        """
        # A loss that is not finite makes the norm NaN as well, so the loss is named first.
        broken = "loss" if not math.isfinite(result.loss) else "gradient's norm"
        value = result.loss if broken == "loss" else result.grad_norm
        if math.isfinite(value):
            return
        update = self.updates - 1  # Counted from 0.
        kept = keep_batch(self._checkpoints.folder.parent / f"nan-batch-{update:09d}.npz", batch)
        raise LearnerError(f"the {broken} of update {update} is {value}; {kept}")

    def _log(self, batch: Batch, result: UpdateResult) -> None:
        if not self._board.due():
            return
        self._write_metrics()
        age = float(np.mean(self.weights_version - batch.weights_version))
        self._board.write(
            {
                "learner/loss": result.loss,
                "learner/q_mean": result.q_mean,
                "learner/grad_norm": result.grad_norm,
                "learner/learning_rate": self._config.learning_rate_at(self.batches.progress),
                "learner/priority_max": float(np.max(result.priorities)),
                "learner/sample_age": age,
            }
        )

    def _write_metrics(self) -> None:
        own = {
            "progress/env_steps": float(self._replay.inserted),
            "progress/updates": float(self.updates),
            "progress/restored_env_steps": float(self._restored_env_steps),
            "speed/updates_per_s": self.batches.speed.updates_per_s,
            "learner/waiting_share": self.batches.speed.waiting_share,
            "replay/burst_updates": self.batches.speed.largest_arrival / self._config.update_period,
            "learner/weights_version": float(self.weights_version),
            "learner/checkpoints": float(self._num_checkpoints),
        }
        self._board.write(self._replay.metrics() | own)
