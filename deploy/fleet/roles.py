"""Actor and learner as Ray actors: each builds its plain class in its own process and runs it.

`run` is one long call whose answer tells how the role ended; `heartbeat`, `stop` and the like are answered
beside it. A role that has not been asked for a heartbeat for 20 s has lost its supervisor: it ends as if told
to.

The supervisor loads this module too and has no use for torch: what only the roles need is imported in them.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from deploy import import_path
from deploy.checks import without_passwords
from deploy.config import Config, to_json
from deploy.fleet.log import log_to
from deploy.fleet.weight_store import StoredWeights, WeightPublisher
from deploy.run_folder import RunFolder
from replay.shard import Shard
from replay.types import Signature

if TYPE_CHECKING:
    from actors.actor import Actor
    from actors.episodes import Episode
    from learner.learner import Learner
    from replay.sampler import Sampler

logger = logging.getLogger(__name__)

LOST_SECONDS = 20.0
LEARNER_PATIENCE_SECONDS, ACTOR_PATIENCE_SECONDS = 2.0, 5.0


@dataclass(frozen=True)
class Assignment:
    """What every role of a run needs to know."""

    config: Config
    folder: str
    urls: tuple[str, ...] = field(repr=False)
    """One a shard, in order; with passwords, so it goes only from process to process."""
    store: Any
    """Handle of the weight store."""
    users_folders: tuple[str, ...] = ()
    """Where the user's own modules are (`import_path.users_folders`)."""

    def with_shard(self, url: str) -> "Assignment":
        """The same with one more shard."""
        return replace(self, urls=(*self.urls, url))


class Report(TypedDict):
    """A role's answer to a heartbeat."""

    pid: int
    ready: bool
    """Built and restored; the numbers below mean something."""
    metrics: dict[str, float]
    episodes: "list[Episode]"
    """Episodes that ended since the last answer (actors only)."""
    notes: list[str]
    """Events since the last answer that people should hear of (the learner only)."""


class Role:
    """What the roles have in common: being stopped, and noticing that nobody asks any more."""

    def __init__(self, assignment: Assignment, name: str, patience: float) -> None:
        """A shard that does not answer for `patience` seconds is done without until it does."""
        self._assignment, self._patience = assignment, patience
        self._config = assignment.config
        self._folder = RunFolder(Path(assignment.folder))
        self._told_to_stop = threading.Event()
        self._heard = time.monotonic()
        self._notes: list[str] = []
        self._lock = threading.Lock()
        self._told: dict[int, str] = {}
        self._added: list[Shard] = []
        self._use_shard: Callable[[Shard], None] | None = None
        import_path.search_also(assignment.users_folders)
        log_to(self._folder.log_path, name)

    def stop(self) -> None:
        """End cleanly as soon as possible; `run` then returns."""
        self._told_to_stop.set()

    def add_shard(self, index: int, url: str) -> None:
        """From now on the run has this shard too; one that is known already changes nothing."""
        with self._lock:
            self._told[index] = url  # calls may overtake each other
            while (index := len(self._assignment.urls) + len(self._added)) in self._told:
                self._added.append(self._shard(index, self._told[index]))
                if self._use_shard is not None:
                    self._use_shard(self._added[-1])

    def _start_using(self, use_shard: Callable[[Shard], None]) -> None:
        """From now on added shards are given to this; those that were added before are at once."""
        with self._lock:
            self._use_shard = use_shard
            for shard in self._added:
                use_shard(shard)

    def should_stop(self) -> bool:
        """Told to stop, or alone."""
        return self._told_to_stop.is_set() or time.monotonic() - self._heard > LOST_SECONDS

    def _report(self, source: "Actor | Learner | None") -> Report:
        self._heard = time.monotonic()
        metrics = source.metrics() if source is not None else {}
        notes = self._notes[:]
        del self._notes[: len(notes)]
        return Report(pid=os.getpid(), ready=source is not None, metrics=metrics, episodes=[], notes=notes)

    def _note(self, text: str) -> None:
        """Tell people, by the log and by the next heartbeat."""
        logger.warning(text)
        self._notes.append(text)

    def _shards(self) -> list[Shard]:
        return [self._shard(index, url) for index, url in enumerate(self._assignment.urls)]

    def _shard(self, index: int, url: str) -> Shard:
        # A run in lockstep is to draw the same again, so it waits longer.
        seconds = 30.0 if self._config.run.lockstep else self._patience
        return Shard(url, run=self._config.run.name, index=index, retry_seconds=seconds)

    def _signature(self) -> Signature:
        from actors.environments import describe_environment

        spec = describe_environment(self._config.environment)
        stack, n_step = self._config.environment.stack, self._config.replay.n_step
        return Signature(spec.frame_shape, stack, n_step, spec.num_actions)


LEARNER_SWITCH_SECONDS = 0.0002
"""How long the team's other threads may wait for the learner's own, which draws the next batch first, before
they get the interpreter. With Python's 5 ms they stood still for as long as a draw takes."""


class LearnerRole(Role):
    """The run's learner, with the sampler as the one owner of the shards."""

    def __init__(self, assignment: Assignment, dead: set[tuple[int, int]]) -> None:
        super().__init__(assignment, "learner", LEARNER_PATIENCE_SECONDS)
        self._dead = dead
        self._learner: Learner | None = None

    def run(self) -> str:
        """Build, restore and learn: `finished`, or `stopped` when told to, both with a checkpoint."""
        import torch

        torch.set_num_threads(self._config.learner.num_threads or len(os.sched_getaffinity(0)))
        sys.setswitchinterval(LEARNER_SWITCH_SECONDS)
        publisher = WeightPublisher(self._assignment.store)
        with contextlib.closing(self._sampler()) as sampler:
            learner = self._build(publisher, sampler)
            learner.restore()
            # Actors that stayed alive take only what is newer than what they have.
            learner.weights_version = max(learner.weights_version, publisher.newest_version())
            self._learner = learner
            learner.mark_dead(self._dead)
            self._start_using(learner.add_shard)
            return learner.run(self.should_stop)

    def heartbeat(self) -> Report:
        """The learner's numbers."""
        return self._report(self._learner)

    def mark_dead(self, incarnations: set[tuple[int, int]]) -> None:
        """These will write no more: their allowance goes to others."""
        if self._learner is None:
            self._dead = self._dead | incarnations
        else:
            self._learner.mark_dead(incarnations)

    def _sampler(self) -> "Sampler":
        from replay.sampler import Sampler

        config = self._config
        return Sampler(
            config.replay,
            self._shards(),
            run=config.run.name,
            signature=self._signature(),
            batch_size=config.learner.batch_size,
            samples_per_insert=config.samples_per_insert,
            total_env_steps=config.run.total_env_steps,
            seed=config.run.seed,
        )

    def _build(self, publisher: WeightPublisher, sampler: "Sampler") -> "Learner":
        from learner.checkpoint import CheckpointStore
        from learner.learner import Learner
        from learner.train_step import TrainStep

        config, signature = self._config, self._signature()
        train_step = TrainStep(
            config.network,
            config.learner,
            num_actions=signature.num_actions,
            observation_shape=(signature.stack, *signature.frame_shape),
            seed=config.run.seed,
        )
        checkpoints = CheckpointStore(
            self._folder.checkpoints, config.learner.keep_checkpoints, note=self._note
        )
        return Learner(
            config.learner,
            config.network,
            config.replay,
            sampler=sampler,
            train_step=train_step,
            publish=publisher.publish,
            checkpoints=checkpoints,
            total_env_steps=config.run.total_env_steps,
            run_document=to_json(without_passwords(config)),
            lockstep=config.run.lockstep,
            note=self._note,
        )


class ActorRole(Role):
    """One incarnation of an actor slot: one core, several environments."""

    def __init__(self, assignment: Assignment, slot: int, incarnation: int, start_env_steps: int) -> None:
        super().__init__(assignment, f"actor {slot}.{incarnation}", ACTOR_PATIENCE_SECONDS)
        self._slot, self._incarnation = slot, incarnation
        self._start_env_steps = start_env_steps
        self._actor: Actor | None = None

    def run(self) -> Report:
        """Act until told to stop and write what is open; gives the last report."""
        import torch

        from actors.actor import Actor
        from replay.writer import Writer

        torch.set_num_threads(1)
        config = self._config
        shards = self._shards()
        writer = Writer(
            shards,
            run=config.run.name,
            signature=self._signature(),
            first_shard=self._slot % len(shards),
            should_stop=self.should_stop,
        )
        self._start_using(writer.add_shard)
        self._actor = actor = Actor(
            config.actors,
            config.environment,
            config.exploration,
            config.network,
            config.replay,
            slot=self._slot,
            incarnation=self._incarnation,
            seed=config.run.seed,
            writer=writer,
            weights=StoredWeights(self._assignment.store),
            lockstep=config.run.lockstep,
            start_env_steps=self._start_env_steps,
        )
        actor.run(self.should_stop)
        actor.drain()
        return self.heartbeat()

    def heartbeat(self) -> Report:
        """The actor's numbers and the episodes since the last time."""
        report = self._report(self._actor)
        if self._actor is not None:
            report["episodes"] = self._actor.take_episodes()
        return report
