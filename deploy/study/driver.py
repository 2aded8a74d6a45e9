"""Drives a study: starts its runs, as many at once as fit, and adopts those that an earlier driver started.

A run is a process of its own, started by the very command that its folder names, and does not notice the end
of its driver. So all that is known of a study stands in its folder and in those of its runs.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from deploy.fleet.operations import stop
from deploy.run.errors import RunError
from deploy.run.folder import RunFolder, remove_half_made
from deploy.run.preflight import JOB_VARIABLE, RAY_VARIABLE
from deploy.run.states import ENDED
from deploy.run.status import read_status
from deploy.study.folder import StudyFolder
from deploy.study.plan import PlannedRun

PYTHON = (sys.executable, "-P", "-m", "deploy.cli.main")
"""-P: a `deploy` in the current folder is not ours."""
DECIDED = (RAY_VARIABLE, JOB_VARIABLE)
"""Variables that the study has heeded for all of its runs, which are detached from it also in a job."""
LOOK_SECONDS = 0.5
WAITING, STARTING = "waiting", "starting"
MOST_STARTS = 5
"""A run that ends so often without its end is not started again, and counts as failed."""


@dataclass
class RunState:
    """What is known of a run: `state` is a run's, or `waiting` before it is started."""

    planned: PlannedRun
    state: str = WAITING
    message: str = ""
    status: dict[str, Any] = field(default_factory=dict)
    start: "Start | None" = None
    attempts: int = 0
    """How often this driver has started it."""
    held: bool = False
    """Stopped by somebody else while this driver was at work: left alone until the next one."""

    @property
    def at_work(self) -> bool:
        """Whether it has a process, or is about to."""
        return self.start is not None or self.state not in ENDED | {WAITING}

    @property
    def over(self) -> bool:
        """Whether this driver has nothing more to do for it."""
        return not self.at_work and (self.held or self.state in ("finished", "failed"))


class Start:
    """A command that starts or resumes a run, and returns once it is at work."""

    def __init__(self, words: Sequence[str], inherited: Sequence[int] = ()) -> None:
        """`inherited`: file descriptors that the command keeps open as long as it is at work."""
        # A file: nobody reads while the command is at work, and a full pipe would block it.
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process is)
        self._process = subprocess.Popen(
            [*PYTHON, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._output,
            env={name: value for name, value in os.environ.items() if name not in DECIDED},
            pass_fds=inherited,
            start_new_session=True,  # Ctrl-C is for the driver, which decides what to do.
        )

    @property
    def error(self) -> str | None:
        """The last line of a command that failed, empty after one that did not; None while it is at work."""
        if self._process.poll() is None:
            return None
        if self._process.returncode == 0:
            return ""
        self._output.seek(0)
        last = self._output.read().decode(errors="replace").strip().rpartition("\n")[2]
        return last.removeprefix("apexpert: ") or f"exit code {self._process.returncode}"


class Driver:
    """Runs what is left of a study. `step` is called until `done`; `stop` ends the runs cleanly."""

    def __init__(
        self, folder: StudyFolder, runs: Sequence[PlannedRun], at_once: int, *, retry: bool = False
    ) -> None:
        """`retry`: runs that have failed are started again."""
        self._folder, self._at_once = folder, at_once
        self.states = [RunState(planned) for planned in runs]
        for state in self.states:
            self._look(state)
            if retry and state.state == "failed":
                state.state = WAITING

    @property
    def done(self) -> bool:
        """Whether every run has finished, has failed or was stopped by somebody else."""
        return all(state.over for state in self.states)

    def step(self) -> None:
        """Look at every run, and start those for which there is room."""
        for state in self.states:
            if state.at_work:
                self._look(state)
                # A run that was stopped without a reason of its own was stopped by a person.
                state.held = state.state == "stopped" and not state.message
        for state in self.states:
            if sum(other.at_work for other in self.states) >= self._at_once:
                return
            if not state.at_work and not state.over:
                self._begin(state)

    def stop(self, tell: Callable[[str], object]) -> None:
        """End all runs that are at work, each with a checkpoint; `tell` receives a line about each."""
        for state in self.states:
            while state.start is not None:  # What only starts cannot be asked to stop.
                self._look(state)
                time.sleep(0.0 if state.start is None else LOOK_SECONDS)
        for state in self.states:
            run = self._folder.run(state.planned)
            if run is not None and state.at_work:
                try:
                    tell(f"{state.planned.name}: {stop(run)['state']}")
                except Exception as error:  # One that cannot be stopped must not keep the others running.
                    tell(f"{state.planned.name}: {error}")
                self._look(state)

    def _begin(self, state: RunState) -> None:
        run = self._folder.run(state.planned)
        if state.attempts >= MOST_STARTS:
            state.message = f"was started {state.attempts} times and did not come to its end; {state.message}"
            state.state = "failed"
            return
        state.attempts += 1
        self._folder.note(state.planned, starts=self._folder.started(state.planned)["starts"] + 1, error="")
        if run is None:
            # Nobody is making it: whoever starts a run holds the study's lock.
            remove_half_made(self._folder.path / state.planned.name)
        new = ["train", *state.planned.words]
        words = new if run is None else ["resume", str(run.path), "--detach"]
        state.start = Start(words, self._folder.inherited)
        state.state = STARTING

    def _look(self, state: RunState) -> None:
        refused = ""
        if state.start is not None:
            error = state.start.error
            if error is None:
                return
            state.start, refused = None, error
            if error:
                with contextlib.suppress(OSError):  # On a full disk it is known to this driver alone.
                    self._folder.note(state.planned, error=error)
        run = self._folder.run(state.planned)
        if run is None:
            noted = self._folder.started(state.planned)
            # Without a folder it was refused, and would be again.
            state.state = "failed" if noted.get("error") else WAITING
            state.message = noted.get("error", "")
            return
        self._look_into(run, state)
        if state.state in ENDED and state.state != "finished":
            # Why it could not be resumed, in place of how it ended before.
            state.message = refused or state.message

    def _look_into(self, run: RunFolder, state: RunState) -> None:
        try:
            state.status = read_status(run)
        except RunError as error:
            state.state, state.message = "failed", str(error)
            return
        state.state, state.message = str(state.status["state"]), str(state.status.get("message") or "")
