"""The supervisor: owns a run's servers, weight store, learner and actors, from start to end.

One detached, named Ray actor a run, in the group that reserves a node for the run's core (ray/placement.py).
Everything it starts is its child and goes with it. Should it or its node die, Ray starts it again and it
begins over from the folder: servers on their files, learner from its checkpoint, actors as new incarnations.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import ray

from deploy.fleet.actor_fleet import ActorFleet
from deploy.fleet.elastic.room import Room
from deploy.fleet.elastic.steering import Steering
from deploy.fleet.evaluator import Evaluator
from deploy.fleet.learner_slot import LearnerSlot
from deploy.fleet.parts import Parts, ShardAdditions, embedded_servers
from deploy.fleet.processes.role import Assignment
from deploy.fleet.processes.weight_store import create_weight_store
from deploy.fleet.ray import core, placement
from deploy.fleet.ray.nodes import was_restarted
from deploy.fleet.reporting.log import log_to
from deploy.fleet.reporting.ray_metrics import exporter
from deploy.fleet.reporting.telemetry import Telemetry
from deploy.fleet.reporting.waiting import SERVERS, waits_for
from deploy.fleet.run_state import FleetState, forget_ray, hold, load_ray
from deploy.fleet.wind_down import WindDown, attempt, draw_curve
from deploy.run.config import Config
from deploy.run.folder import RunFolder
from deploy.run.states import EVALUATING, FINAL_STATES
from replay.errors import ServersStopped
from replay.servers.embedded import EmbeddedServers

logger = logging.getLogger(__name__)

TURN_SECONDS, STATUS_SECONDS = 0.2, 1.0
ABANDONED_SECONDS = 10.0
"""A foreground run whose command has not been heard for this long is stopped."""
FINAL_SEEN_SECONDS, LET_GO_SECONDS = 3.0, 10.0
"""Whoever saw the last status has so long to let go of a Ray of the run's own: its end would end it, too."""
MEANT_SECONDS, LAST_STATUS_SECONDS = 1.0, 60.0
"""How long the last status is tried: a full disk often has room again within seconds."""
TERMINATED_STATUS_SECONDS = 5.0
"""After SIGTERM, which servers and Ray most likely got as well: there is no time, and nowhere to write to."""


class Supervisor:
    """Runs in a thread of its own; the public methods are calls over Ray and answer at once."""

    def __init__(self, folder: str, users_folders: Sequence[str] = ()) -> None:
        """`users_folders`: where the modules of the user who started the run are (see `import_path`)."""
        self._users_folders = tuple(users_folders)
        self._folder = RunFolder(Path(folder))
        log_to(self._folder.log_path, "supervisor")
        # First: whoever holds this lock is the one that writes status.json, ray.json and fleet.json.
        self._held = hold(self._folder, patient=was_restarted)
        self._config: Config = self._folder.load_config()
        self._ray_address, self._local_ray = load_ray(self._folder)
        self._state, self._message = "starting", ""
        self._status: dict[str, Any] = {}
        self._heard = time.monotonic()
        # The command of a run in the foreground wants to see its last status; it need not see the folder.
        self._awaited = not self._config.run.detach
        self._stop_asked = threading.Event()
        self._final_seen = threading.Event()
        self._fleet_state = FleetState(self._folder)
        private = self._local_ray is not None
        export = exporter(self._folder.name, self._config.game_name, private=private)
        self._telemetry = Telemetry(self._config, self._folder, self._ray_address, export)
        self._new_shards = ShardAdditions(self._config, self._folder, self._telemetry.note)
        self._parts: Parts | None = None
        self._published = 0.0
        self._terminated = False
        # Only a main thread may set a handler; Ray makes its actors in their process's main thread.
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self._publish_status()
        threading.Thread(target=self._live, name="supervisor", daemon=True).start()

    def status(self) -> dict[str, Any]:
        """The run's status, as in status.json."""
        if self._status["state"] in FINAL_STATES:
            self._final_seen.set()
        return self._status

    def heartbeat(self) -> None:
        """The command that owns the run is alive."""
        self._heard = time.monotonic()

    def scale(self, actors: int | str) -> None:
        """From now on the run has that many actors, or as many as it chooses within `auto:MIN-MAX`."""
        self._telemetry.note(f"scale: {self._fleet_state.asked} -> {actors} actors")
        self._fleet_state.ask(actors)

    def add_shards(self, num_shards: int, urls: tuple[str, ...]) -> None:
        """From now on the run has so many embedded servers, or these servers of the user's own as well."""
        self._new_shards.ask(num_shards, urls)

    def stop(self, awaited: bool = False) -> None:
        """End the run cleanly; returns at once. `awaited`: the last status is asked for here, by `status`."""
        self._awaited = self._awaited or awaited
        self._stop_asked.set()

    def _on_sigterm(self, _number: int, _frame: FrameType | None) -> None:
        self._terminated = True
        self._stop_asked.set()

    def _live(self) -> None:
        outcome, message = "failed", ""
        last_words = contextlib.ExitStack()
        with self._held as stack:
            try:
                self._parts = self._set_up(stack)
                outcome, message = self._supervise(self._parts)
            except ServersStopped:
                outcome = "stopped"
                self._telemetry.note("stopped before the replay was loaded: everything stays as it is")
            except Exception as error:  # Whatever it is, the run has to end and to say why.
                logger.exception("the supervisor failed")
                message = f"{type(error).__name__}: {' '.join(str(error).split())}"
            outcome, message = self._wind_down(outcome, message)
            # After SIGTERM, Ray may be gone before the servers have stopped: publish the end now.
            if self._terminated:
                target = self._fleet_state.target
                self._telemetry.insist(
                    lambda: self._telemetry.publish(outcome, message, target, [], {}), self._last_seconds
                )
            # Whoever resumes waits for the last status, for which the lock has to be free.
            attempt(lambda: last_words.enter_context(self._folder.last_words()))
        # Publish the end only now that the lock is free: whoever sees it may resume at once.
        with last_words:
            self._publish_end(outcome, message)
        self._leave()

    def _publish_end(self, outcome: str, message: str) -> None:
        self._state, self._message = outcome, message
        self._telemetry.note(f"{outcome}{': ' + message if message else ''}")
        if (ended := self._local_ray) is not None:
            attempt(lambda: forget_ray(self._folder, only=ended))
        self._publish_status()

    def _set_up(self, stack: contextlib.ExitStack) -> Parts:
        # Undone in reverse: the store, the servers, room for a status, and last the lock.
        stack.callback(attempt, self._wait_for_room)
        config = self._config
        servers = None if config.replay.urls else self._start_servers(stack)
        urls = config.replay.urls if servers is None else tuple(servers.urls)
        place, num_gpus = placement.own()
        store = create_weight_store(place, self._folder.log_path)
        stack.callback(attempt, lambda: ray.kill(store))
        assignment = Assignment(config, str(self._folder.path), urls, store, self._users_folders)
        note = self._telemetry.note
        # Sockets are reached on this node alone.
        sockets = any(url.startswith("unix:") for url in urls)
        node_id = str(ray.get_runtime_context().get_node_id())
        only_node = node_id if sockets else None
        actors = ActorFleet(assignment, self._fleet_state, node_id=only_node, note=note)
        learner = LearnerSlot(
            assignment,
            place=place,
            num_gpus=num_gpus,
            dead=lambda: self._fleet_state.dead_incarnations(actors.started),
            note=note,
        )
        evaluator = Evaluator(assignment, place, self._telemetry)
        room = Room(actors, only_node, own=self._local_ray is not None)
        steering = Steering(config, self._fleet_state, room, node_id, note)
        return Parts(actors, learner, evaluator, steering, servers, store.until_it_ends.remote())

    def _start_servers(self, stack: contextlib.ExitStack) -> EmbeddedServers:
        self._message, is_own = SERVERS, self._local_ray is not None
        servers = embedded_servers(self._config, self._folder, is_own, self._still_waiting)
        servers.start()
        stack.callback(attempt, servers.stop)
        return servers

    def _supervise(self, parts: Parts) -> tuple[str, str]:
        """Turn until the run has ended; gives the final state and, for a failure, why."""
        actors, learner = parts.actors, parts.learner
        while True:
            if self._stop_asked.is_set():
                return "stopped", ""
            self._begin_over_without_servers(parts)
            self._new_shards.step(parts)
            learner.step()
            if learner.outcome:
                return learner.outcome, learner.message
            if learner.ready and (end := self._telemetry.end_reached()):
                return "finished", end
            if self._abandoned():
                self._telemetry.note("the command that owns this run is gone: stopping")
                return "stopped", "the command that owned it was gone"
            # In lockstep an actor counts from what is in the replay when it starts: the learner comes first.
            if learner.ready or not self._config.run.lockstep:
                env_steps = int(learner.metrics.get("progress/env_steps", 0))
                self._telemetry.add_episodes(actors.step(env_steps))
            learner.mark_dead(actors.new_dead)
            actors.new_dead = set()
            if learner.ready:
                self._state = "running"
            parts.evaluator.step(learner.metrics)
            if time.monotonic() - self._published >= STATUS_SECONDS:
                self._telemetry.update(learner.metrics, report := actors.report())
                parts.steering.step(learner, actors, report)
                self._message = waits_for(
                    learner.metrics,
                    learner_pid=learner.pid,
                    learner_ready=learner.ready,
                    target=self._fleet_state.target,
                    min_size=self._config.replay.min_size,
                )
                self._publish_status()
            self._stop_asked.wait(TURN_SECONDS)

    def _begin_over_without_servers(self, parts: Parts) -> None:
        """When the servers' guardian has died, and so the servers: as after a death of the supervisor itself.

        They come back under other addresses, so every role has to be started again. Ray does the rest. So it
        is without the weight store, whose handle every role has.
        """
        missing = ""
        if parts.servers is not None and not parts.servers.alive:
            missing = "the guardian of the embedded servers"
        elif ray.wait([parts.store], timeout=0)[0]:
            missing = "the weight store"
        # SIGTERM to all processes of a run may reach this one last: then nothing has to begin over.
        if missing and not self._stop_asked.wait(MEANT_SECONDS):
            logger.error("%s is gone: beginning over", missing)
            # Ray starts the supervisor again once its process has failed.
            os._exit(1)

    def _abandoned(self) -> bool:
        return not self._config.run.detach and time.monotonic() - self._heard > ABANDONED_SECONDS

    def _still_waiting(self) -> bool:
        """While something takes long: shows that this process lives, and says whether the run has to end."""
        if time.monotonic() - self._published >= STATUS_SECONDS:
            self._publish_status()
        return self._stop_asked.is_set() or self._abandoned()

    def _wind_down(self, outcome: str, message: str) -> tuple[str, str]:
        """Stop all parts but the servers, which the caller stops.

        Returns outcome and message, which a learner that could not save its last checkpoint changes.
        """
        self._state, self._message = "stopping", message
        self._publish_status()
        end = WindDown(self._parts, self._telemetry, terminated=self._terminated, waiting=self._still_waiting)
        unsaved = end.stop_parts()
        if unsaved and outcome != "failed":
            outcome, message = "failed", unsaved
        if outcome == "finished":
            self._state, self._message = EVALUATING, "the last checkpoint"
        end.end_evaluations(finished=outcome == "finished")
        self._telemetry.write()
        self._telemetry.close()
        if self._config.run.detach:  # Otherwise the command draws the curve.
            attempt(lambda: draw_curve(self._folder))
        return outcome, message

    def _wait_for_room(self) -> None:
        """Have a full disk take a status, while the run is locked: who sees its last one may resume it."""
        if not self._terminated:
            self._telemetry.insist(self._publish_status, self._last_seconds)

    def _last_seconds(self) -> float:
        return TERMINATED_STATUS_SECONDS if self._terminated else LAST_STATUS_SECONDS

    def _leave(self) -> None:
        """End this Ray actor for good, and before it the Ray that the run started for itself."""
        if self._awaited:
            self._final_seen.wait(FINAL_SEEN_SECONDS)
        if self._terminated and self._local_ray is not None and not self._local_ray.alive:
            os._exit(0)  # There is no Ray left to end this process.
        if self._local_ray is not None:
            seconds = FINAL_SEEN_SECONDS if self._config.run.detach else LET_GO_SECONDS
            if self._final_seen.is_set():
                self._local_ray.wait_for_end(seconds)
            self._local_ray.signal_end()
        else:
            attempt(lambda: core.give_back(self._folder))
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    def _publish_status(self) -> None:
        rows: list[dict[str, Any]] = []
        learner: dict[str, Any] = {}
        if self._parts is not None:
            rows = self._parts.actors.rows()
            learner = {"pid": self._parts.learner.pid, "ready": self._parts.learner.ready}
        target = self._fleet_state.target
        self._status = self._telemetry.publish(self._state, self._message, target, rows, learner)
        self._published = time.monotonic()
