"""Watching a run from the foreground: shows it, keeps it alive, and ends it cleanly on Ctrl-C."""

import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Protocol, Self

from deploy.cli.errors import CommandFailed
from deploy.run.states import FINAL_STATES

PERIOD_SECONDS = 0.25
SAME_SECONDS = 2.0
FORCED_CODE = 130
"""Exit code after a second Ctrl-C, as shells have it for SIGINT."""
LOST_SECONDS = 50.0
"""A supervisor that dies is started again within seconds; after this long it is gone for good. Ray ends this
process by itself after 60 s without its head node."""
LAST_WORDS_SECONDS = 150.0
"""What is left of a run whose Ray has ended may still save a checkpoint."""


class RunClient(Protocol):
    """The foreground's handle on a run (deploy.fleet has the real one)."""

    def status(self) -> dict[str, Any]:
        """The run's status, see deploy.fleet.supervisor."""

    @property
    def is_gone(self) -> bool:
        """Whether the supervisor has ended for good: nothing will change."""

    def last_words(self, timeout: float, told_to_stop: bool) -> dict[str, Any]:
        """The status of a run that is gone, once all its processes here are, or have said it."""

    def scale(self, num_actors: int) -> None:
        """Ask for that many actors."""

    def add_shards(self, num_shards: int, urls: tuple[str, ...]) -> None:
        """Ask for so many embedded servers, or for these of the user's own as well."""

    def stop(self) -> None:
        """Ask the run to end cleanly; returns at once."""

    def heartbeat(self) -> None:
        """Say that the command that owns the run is still there."""

    def close(self) -> None:
        """Let go of the run and leave it as it is."""

    def shutdown(self) -> None:
        """End what is left of the run, and the local Ray that it started."""


class Forced(KeyboardInterrupt):
    """A second Ctrl-C: end at once, wherever the program is."""


class Interrupts:
    """While entered, the first Ctrl-C, SIGTERM or closed terminal is only counted; the next raises Forced."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.count = 0
        self._first = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        before = {number: signal.getsignal(number) for number in self.SIGNALS}
        # What is ignored from the start stays so: that is what nohup is for.
        self._before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        # A closed terminal and others send one signal twice: to the process, and to its group.
        if self.count and number != signal.SIGINT and time.monotonic() - self._first < SAME_SECONDS:
            return
        self._first = self._first or time.monotonic()
        self.count += 1
        if self.count > 1:
            raise Forced


def follow(
    client: RunClient,
    show: Callable[[Mapping[str, Any]], None],
    interrupts: Interrupts,
    say: Callable[[str], None] = print,
    hint: str = "",
    unseen: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Show the run's status about four times a second until it has ended; gives its last status.

    The first interrupt, or nobody seeing it any more (`unseen`, or `show` fails), asks the run to stop and
    goes on with it; a second interrupt raises Forced. Also raises CommandFailed, with `hint` behind it, when
    the run was killed, nothing was heard of it for long, or it was stopped because `show` failed.
    """
    told, failure = False, ""
    stamp, heard = 0.0, time.monotonic()
    while True:
        status = client.status()
        if status["state"] not in FINAL_STATES and client.is_gone:
            status = client.last_words(LAST_WORDS_SECONDS, interrupts.count > 0)
            if status["state"] not in FINAL_STATES:
                raise CommandFailed(f"run {status['run']}: its processes were ended without a word{hint}")
        if not failure:
            failure = _failure_of(show, status)
        if status["state"] in FINAL_STATES:
            if failure:
                said = "; ".join(filter(None, [status["message"], failure]))
                raise CommandFailed(f"run {status['run']} is {status['state']}: {said}{hint}")
            return status
        if status["time"] != stamp:  # the clock itself may be set
            stamp, heard = status["time"], time.monotonic()
        if time.monotonic() - heard > LOST_SECONDS:
            raise CommandFailed(f"run {status['run']}: no sign of it for {LOST_SECONDS:.0f} s{hint}")
        client.heartbeat()
        if interrupts.count == 1 and not told:
            say("stopping: actors drain, the learner saves a checkpoint (Ctrl-C again ends it at once)")
            told = True
        told = told or unseen() or bool(failure)
        if told and status["state"] != "stopping":
            _ask_to_stop(client)
        time.sleep(PERIOD_SECONDS)


def _failure_of(show: Callable[[Mapping[str, Any]], None], status: Mapping[str, Any]) -> str:
    """Show a status; gives why that failed, empty if it did not: no fault of showing may cost a run."""
    try:
        show(status)
    except Exception as error:
        return f"it could not be shown: {type(error).__name__}: {error}"
    return ""


def _ask_to_stop(client: RunClient) -> None:
    """To be repeated until the run is seen to stop: a supervisor that starts again has forgotten it."""
    from deploy.fleet.errors import FleetError

    with contextlib.suppress(FleetError):
        client.stop()
