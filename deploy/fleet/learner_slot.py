"""The place of the run's one learner, which is restarted when it dies, until restarting clearly fails."""

import time
from collections.abc import Callable
from typing import Any

from actors.environments import EnvironmentSetupError
from deploy.fleet.processes.handles import End, RoleHandle, kill_learner, start_learner
from deploy.fleet.processes.role import Assignment
from deploy.fleet.scaling import Restarts
from deploy.run.config import ConfigError
from learner.errors import CheckpointNotWritten, LearnerError
from replay.errors import SignatureMismatch, StaleOwner

FAILURES = 5
RESTORING_SECONDS, WAIT_SECONDS = 3.0, 0.2
NOT_WORTH_RETRYING = (LearnerError, SignatureMismatch, EnvironmentSetupError, StaleOwner, ConfigError)
"""Errors that a restart would only repeat."""


class LearnerSlot:
    """Starts the learner, watches it and restarts it from its last checkpoint."""

    def __init__(
        self,
        assignment: Assignment,
        *,
        place: Any,
        num_gpus: float,
        dead: Callable[[], set[tuple[int, int]]],
        note: Callable[[str], None],
    ) -> None:
        """`place`: Ray's scheduling strategy for the run's core. `dead` returns every incarnation that will
        not write again, for a learner that starts."""
        self._assignment, self._place, self._num_gpus = assignment, place, num_gpus
        self._dead, self._note = dead, note
        self._restarts = Restarts()
        self._handle: RoleHandle | None = None
        self.outcome = ""
        """`finished` or `failed` once the learner will not run again."""
        self.message = ""
        """Why it failed, in one line."""
        self.unsaved = ""
        """Why a learner that was told to stop could not save its last checkpoint; empty if it could."""

    def step(self) -> None:
        """Look at the learner; start one when none runs and the wait is over."""
        now = time.monotonic()
        if self._handle is not None:
            self._poll(self._handle)
            if self._handle.end is not None:
                self._ended(self._handle.end, now)
        elif not self.outcome and self._restarts.may_start(now):
            self._handle = start_learner(self._assignment, self._dead(), self._place, self._num_gpus)
            self._restarts.started(now)

    def _kill(self, handle: RoleHandle) -> None:
        """End its Ray actor, after which its own process ends by itself; if that one hangs, kill it here."""
        handle.kill()
        hangs = handle.end is None or isinstance(handle.end.error, TimeoutError)
        # Until the learner is ready, its report may have the pid of the Ray actor.
        if hangs and handle.ready and handle.report is not None:
            kill_learner(handle.report["pid"], self._assignment.folder)

    def mark_dead(self, incarnations: set[tuple[int, int]]) -> None:
        """Tell the learner that these actors will not write again."""
        # A learner that is not there gets these incarnations by `dead` when it starts.
        if self._handle is not None and incarnations:
            self._handle.actor.mark_dead.remote(incarnations)

    def add_shard(self, url: str) -> None:
        """Tell the learner that the run has one more shard."""
        self._assignment = self._assignment.with_shard(url)
        if self._handle is not None:
            self._handle.add_shard(len(self._assignment.urls) - 1, url)

    def save(self) -> None:
        """Tell the learner to write a checkpoint at once, without waiting; it learns on."""
        if self._handle is not None and self._handle.ready:
            self._handle.actor.save.remote()

    def tell_to_stop(self) -> None:
        """Tell the learner to save and end, without waiting; `stop` follows."""
        if self._handle is not None and self._handle.end is None:
            self._handle.stop()

    def stop(self, seconds: float, waiting: Callable[[], object] = lambda: None) -> dict[str, float]:
        """Tell the learner to save a checkpoint and end; return its last metrics. Kill it after `seconds`.

        A learner that is still restoring is killed after `RESTORING_SECONDS`: it has nothing new to save.
        `waiting` is called several times a second meanwhile.
        """
        if self._handle is None:
            return {}
        handle, self._handle = self._handle, None
        if handle.end is None:
            handle.stop()
        asked = time.monotonic()
        while handle.end is None:
            if time.monotonic() - asked > (seconds if handle.ready else min(seconds, RESTORING_SECONDS)):
                break
            handle.wait(WAIT_SECONDS)
            self._poll(handle)
            waiting()
        if handle.end is not None and handle.end.error is None:
            self._ask_last(handle)
        elif handle.end is None and not handle.ready:
            self._note("stopped before the learner was ready: no new checkpoint, earlier ones stay")
        else:
            reason = handle.end.reason if handle.end else f"not done after {seconds:.0f} s"
            if handle.end is not None and isinstance(handle.end.error, CheckpointNotWritten):
                self.unsaved = str(handle.end.error)
            self._note(f"the learner ended without a last checkpoint: {reason}")
        self._kill(handle)
        return handle.metrics

    @property
    def ready(self) -> bool:
        """Whether the learner has restored and learns."""
        return self._handle is not None and self._handle.ready

    @property
    def pid(self) -> int | None:
        """Process id of the learner, once it has reported."""
        return self._handle.report["pid"] if self._handle is not None and self._handle.report else None

    @property
    def metrics(self) -> dict[str, float]:
        """The last reported metrics."""
        return self._handle.metrics if self._handle is not None else {}

    def _poll(self, handle: RoleHandle) -> None:
        handle.poll()
        for text in handle.take_notes():
            self._note(text)

    def _ask_last(self, handle: RoleHandle) -> None:
        handle.ask_last()
        for text in handle.take_notes():
            self._note(text)

    def _ended(self, end: End, now: float) -> None:
        assert self._handle is not None
        if end.answer == "finished":
            self._ask_last(self._handle)
            self.outcome = "finished"
            return
        # A learner that ended by itself had lost contact with us: treat it like one that died.
        self._kill(self._handle)
        self._handle = None
        self._restarts.failed(now)
        failures = self._restarts.failures
        if isinstance(end.error, NOT_WORTH_RETRYING) or failures >= FAILURES:
            self.outcome, self.message = "failed", end.reason
            return
        self._note(f"the learner is gone ({failures}): {end.reason}; it restarts from its last checkpoint")
