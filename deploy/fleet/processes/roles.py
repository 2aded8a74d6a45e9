"""Actor and learner as Ray actors.

`run` is one long call whose answer tells how the role ended; `heartbeat`, `stop` and others are answered
beside it. The actor does its work right here. The learner's work is done by a separate process
(`learner_process`), because Ray kills its workers at once when it ends, whatever they are about to save.

The supervisor imports this module too and has no use for torch: what only the roles need is imported in them.
"""

import contextlib
import os
import signal
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deploy.fleet.errors import LearnerDied
from deploy.fleet.processes.learner_link import LearnerLink
from deploy.fleet.processes.role import ACTOR_PATIENCE_SECONDS, Assignment, Report, Role
from deploy.fleet.processes.sendable import sendable
from deploy.fleet.processes.weight_store import StoredWeights, WeightPublisher
from deploy.fleet.ray.nodes import here

if TYPE_CHECKING:
    from actors.actor import Actor


class LearnerRole:
    """The run's learner as Ray sees it: starts the learner's process, and forwards calls and weights."""

    def __init__(self, assignment: Assignment, dead: set[tuple[int, int]]) -> None:
        """`dead`: incarnations that will not write again."""
        self._assignment, self._dead = assignment, dead
        self._publisher = WeightPublisher(assignment.store)
        self._link: LearnerLink | None = None
        self._early: list[tuple[str, tuple[Any, ...]]] = []
        self._lock = threading.Lock()
        # On SIGTERM the learner ends, and this process stays to report how. The call is made in a
        # thread, because a signal handler must not wait for an answer.
        signal.signal(signal.SIGTERM, lambda number, frame: threading.Thread(target=self.stop).start())

    def run(self, secrets: tuple[str, ...]) -> str:
        """Learn; return `finished`, or `stopped` when told to, both with a checkpoint.

        `secrets` are the assignment's. Raises what the learner raises, and LearnerDied if its process dies
        without a message.
        """
        assignment = replace(self._assignment.with_secrets(secrets), store=None)
        newest = self._publisher.newest_version()
        with LearnerLink(assignment, self._dead, newest, self._publisher.publish) as link:
            # Under the lock, so that no later call overtakes the early ones.
            with self._lock:
                self._link = link
                for method, arguments in self._early:
                    link.call(method, *arguments)
            return link.wait()

    def heartbeat(self) -> Report:
        """Return the learner's numbers; raise LearnerDied when its process is gone."""
        if self._link is None:
            return Report(pid=os.getpid(), ready=False, metrics={}, episodes=[], notes=[], node="")
        report: Report = self._link.last_report or self._link.call("heartbeat")
        return report

    def stop(self) -> None:
        """End cleanly as soon as possible; `run` then returns."""
        with contextlib.suppress(LearnerDied):
            self._tell("stop")

    def save(self) -> None:
        """Write a checkpoint as soon as possible and learn on."""
        with contextlib.suppress(LearnerDied):
            self._tell("save")

    def mark_dead(self, incarnations: set[tuple[int, int]]) -> None:
        """Release the allowance of incarnations that will not write again."""
        self._tell("mark_dead", incarnations)

    def add_shard(self, index: int, url: str) -> None:
        """Use one more shard from now on."""
        self._tell("add_shard", index, url)

    def _tell(self, method: str, *arguments: Any) -> None:
        with self._lock:
            if self._link is None:
                self._early.append((method, arguments))
                return
        self._link.call(method, *arguments)


class ActorRole(Role):
    """One incarnation of an actor slot: one core, several environments."""

    def __init__(self, assignment: Assignment, slot: int, incarnation: int, start_env_steps: int) -> None:
        super().__init__(assignment, f"actor {slot}.{incarnation}", ACTOR_PATIENCE_SECONDS)
        self._slot, self._incarnation = slot, incarnation
        self._start_env_steps = start_env_steps
        self._actor: Actor | None = None
        self._node = here()
        self.stop_at_sigterm()

    def run(self, secrets: tuple[str, ...]) -> Report:
        """Act until told to stop and write the open segments; return the last report.

        `secrets` are the assignment's. Raises what acting raised, in a form that the supervisor can receive
        and show.
        """
        try:
            self._assignment = self._assignment.with_secrets(secrets)
            return self._act()
        except Exception as error:
            raise sendable(error) or error from error

    def _act(self) -> Report:
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
        """Return the actor's numbers and the episodes since the last call."""
        report = self._report(self._actor)
        report["node"] = self._node
        if self._actor is not None:
            report["episodes"] = self._actor.take_episodes()
        return report
