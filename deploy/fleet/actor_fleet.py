"""The run's actors: one per slot below the target, replaced when they die, drained when surplus."""

import time
from collections.abc import Callable, Collection
from typing import Any

from actors.episodes import Episode
from deploy.fleet.processes.handles import RoleHandle, start_actor
from deploy.fleet.processes.role import Assignment
from deploy.fleet.ray.nodes import has_free_core
from deploy.fleet.reporting.actor_metrics import FleetReport, totals
from deploy.fleet.run_state import FleetState
from deploy.fleet.scaling import Restarts, missing, surplus

START_SECONDS = 20.0
"""A start that takes longer than this is reported."""
DRAIN_SECONDS = 30.0
"""An actor told to leave is killed if it takes longer than this."""


class ActorFleet:
    """Starts, watches, replaces and drains actors; `step` and `drain` belong to the supervisor's loop."""

    def __init__(
        self, assignment: Assignment, state: FleetState, *, node_id: str | None, note: Callable[[str], None]
    ) -> None:
        """`node_id`: the only node that actors may run on, or None for any."""
        self._assignment, self._state, self._node_id, self._note = assignment, state, node_id, note
        self._running: dict[int, tuple[int, RoleHandle]] = {}
        self._leaving: dict[int, tuple[int, RoleHandle, float]] = {}
        self._restarts: dict[int, Restarts] = {}
        self._starting: dict[int, float] = {}
        """When each slot that has not answered yet was started; reported slots are left out."""
        self._gone: dict[str, float] = {}
        """Counters of the incarnations that are gone."""
        self.restarts = 0
        self.new_dead: set[tuple[int, int]] = set()
        """Incarnations found dead or gone since the set was last cleared."""

    @property
    def alive(self) -> int:
        """Number of actors at work."""
        return sum(handle.ready for _, handle in self._running.values())

    def unplaced(self, seconds: float = 0.0) -> int:
        """Return the number of actors that have not answered yet, `seconds` or more after their start."""
        latest = time.monotonic() - seconds
        return sum(
            handle.report is None and self._restarts[slot].started_at <= latest
            for slot, (_, handle) in self._running.items()
        )

    @property
    def started(self) -> set[tuple[int, int]]:
        """(slot, incarnation) of all actors that may still write."""
        leaving = {(slot, incarnation) for slot, (incarnation, _, _) in self._leaving.items()}
        return {(slot, incarnation) for slot, (incarnation, _) in self._running.items()} | leaving

    def step(self, start_env_steps: int) -> list[Episode]:
        """Look at every actor, and bring their number to the target; return the episodes that ended."""
        episodes = self._poll()
        now = time.monotonic()
        self._reap(now)
        self._tell_of_waiting(now)
        for slot in surplus(self._running, self._state.target):
            self._dismiss(slot, now)
        for slot in missing(self._running, self._state.target):
            # The next incarnation waits until the previous one is gone: `_leaving` has one a slot.
            if slot not in self._leaving and self._restarts.setdefault(slot, Restarts()).may_start(now):
                self._start(slot, now, start_env_steps)
        return episodes

    def add_shard(self, url: str) -> None:
        """Tell all actors that the run has one more shard."""
        self._assignment = self._assignment.with_shard(url)
        for handle in self._handles():
            handle.add_shard(len(self._assignment.urls) - 1, url)

    def leave_nodes(self, nodes: Collection[str]) -> int:
        """Tell the actors on these nodes to leave, for others in their slots; return their number."""
        # Where actors are bound to one node, there is no other for them.
        there = [
            slot
            for slot, (_, handle) in self._running.items()
            if self._node_id is None and handle.report is not None and handle.report["node"] in nodes
        ]
        now = time.monotonic()
        for slot in there:
            self._dismiss(slot, now)
        return len(there)

    def drain(self, seconds: float) -> list[Episode]:
        """Tell all to leave and wait until they have written open segments; kill those that take longer."""
        now = time.monotonic()
        for slot in list(self._running):
            self._dismiss(slot, now)
        for _, handle, _ in self._leaving.values():
            # One deadline for all of them, because they write at the same time.
            handle.wait(now + seconds - time.monotonic())
        # Poll once more: the answer of an actor's `run` holds its last episodes and counters.
        episodes = self._poll()
        for _, handle, _ in self._leaving.values():
            self._end(handle)
        self._leaving.clear()
        return episodes

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per actor for the status."""
        rows = [self._row(slot, n, handle, "") for slot, (n, handle) in self._running.items()]
        rows += [self._row(slot, n, handle, "leaving") for slot, (n, handle, _) in self._leaving.items()]
        return sorted(rows, key=lambda row: (row["slot"], row["incarnation"]))

    def report(self) -> FleetReport:
        """Return the last report of each actor at work, and the counters of all actors that ever were."""
        counted = [handle.metrics for handle in self._handles()]
        return FleetReport(
            target=self._state.target,
            alive=self.alive,
            pending=sum(handle.report is None for _, handle in self._running.values()),
            at_work=[handle.metrics for _, handle in self._running.values() if handle.ready],
            totals=totals([{"actors/restarts": float(self.restarts)}, self._gone, *counted]),
        )

    def _handles(self) -> list[RoleHandle]:
        return [handle for _, handle in self._with_slots()]

    def _with_slots(self) -> list[tuple[int, RoleHandle]]:
        leaving = [(slot, handle) for slot, (_, handle, _) in self._leaving.items()]
        return [(slot, handle) for slot, (_, handle) in self._running.items()] + leaving

    def _poll(self) -> list[Episode]:
        """Return the episodes that actors have reported since the last call, with their actor's slot."""
        return [
            episode._replace(actor_slot=slot)
            for slot, handle in self._with_slots()
            for episode in handle.poll()
        ]

    def _start(self, slot: int, now: float, start_env_steps: int) -> None:
        try:
            incarnation = self._state.next_incarnation(slot)
        except OSError as error:
            # A number that is not on disk could come again after a restart, on other segments.
            self._restarts[slot].failed(now)
            self._note(f"actor {slot} cannot start: its incarnation cannot be noted ({error.strerror})")
            return
        handle = start_actor(self._assignment, slot, incarnation, start_env_steps, self._node_id)
        self._running[slot] = incarnation, handle
        self._starting[slot] = now
        self._restarts[slot].started(now)
        self._note(f"actor {slot} starts (incarnation {incarnation})")

    def _tell_of_waiting(self, now: float) -> None:
        for slot, since in list(self._starting.items()):
            if slot not in self._running or self._running[slot][1].ready:
                del self._starting[slot]
            elif now - since > START_SECONDS:
                del self._starting[slot]
                self._note(
                    f"actor {slot} has waited {START_SECONDS:.0f} s to start: {self._why_waiting(slot)}"
                )

    def _why_waiting(self, slot: int) -> str:
        # An actor that has answered has its core, perhaps the last one.
        if self._running[slot][1].report is None and not has_free_core(self._node_id):
            return "Ray has no free core for it"
        return "Ray has a core for it, and its machine is slow"

    def _dismiss(self, slot: int, now: float) -> None:
        incarnation, handle = self._running.pop(slot)
        handle.stop()
        self._leaving[slot] = incarnation, handle, now + DRAIN_SECONDS
        # A slot that is scaled up again does not wait for failures of its earlier actors.
        self._restarts.pop(slot, None)

    def _reap(self, now: float) -> None:
        # A copy, because entries are taken out on the way.
        for slot, (incarnation, handle) in list(self._running.items()):
            if handle.end is None:
                continue
            del self._running[slot]
            self._end(handle)
            self._restarts[slot].failed(now)
            self.restarts += 1
            self.new_dead.add((slot, incarnation))
            reason = handle.end.reason
            self._note(f"actor {slot} (incarnation {incarnation}) is gone: {reason}; it is replaced")
        for slot, (incarnation, handle, deadline) in list(self._leaving.items()):
            if handle.end is None and now < deadline:
                continue
            del self._leaving[slot]
            self._end(handle)
            self.new_dead.add((slot, incarnation))
            self._note(f"actor {slot} (incarnation {incarnation}) has left")

    def _end(self, handle: RoleHandle) -> None:
        """End an actor that is done or given up; what it has counted stays counted."""
        # A Ray actor whose `run` has returned still holds its process and its core.
        handle.kill()
        self._gone = totals([self._gone, handle.metrics])

    def _row(self, slot: int, incarnation: int, handle: RoleHandle, state: str) -> dict[str, Any]:
        state = state or ("running" if handle.ready else "starting")
        return {
            "slot": slot,
            "incarnation": incarnation,
            "state": state,
            "pid": handle.report["pid"] if handle.report else None,
            "env_steps_per_s": handle.metrics.get("speed/actor_steps_per_s", 0.0),
            "env_steps": handle.metrics.get("actors/env_steps", 0.0),
            "weights_version": handle.metrics.get("actors/weights_version", -1.0),
            "waiting_share": handle.metrics.get("actors/waiting_share", 0.0),
        }
