"""Follows a run in the foreground: shows it, keeps it alive, and ends it cleanly on Ctrl-C."""

import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Protocol, Self

from actors.config import Actors
from deploy.cli.errors import CommandFailed
from deploy.run.states import FINAL_STATES

PERIOD_SECONDS = 0.25
SAME_SECONDS = 2.0
FORCED_CODE = 130
"""Exit code after a second Ctrl-C, the shells' code for SIGINT."""
LOST_SECONDS = 50.0
"""A dead supervisor is restarted within seconds; after this long it is gone for good. Ray itself ends this
process after 60 s without its head node."""
MOVING_SECONDS = 600.0
"""The same on a cluster, where the run may move to another node: on one that is cut off, Ray notices after
minutes, and only then does the learner there save a checkpoint and let go of the run's lock."""
LAST_WORDS_SECONDS = 150.0
"""After its Ray has ended, the rest of a run may still be saving a checkpoint."""


class RunClient(Protocol):
    """The foreground's handle on a run (deploy.fleet has the real one)."""

    def status(self) -> dict[str, Any]:
        """Return the run's status, see deploy.fleet.supervisor."""

    @property
    def is_gone(self) -> bool:
        """Whether the supervisor has ended for good: nothing will change."""

    def last_words(self, timeout: float, told_to_stop: bool) -> dict[str, Any]:
        """Return the status of a run that is gone, once its processes here have ended or written it."""

    def scale(self, actors: Actors) -> None:
        """Ask for so many actors, or for `auto:MIN-MAX`."""

    def add_shards(self, num_shards: int, urls: tuple[str, ...]) -> None:
        """Ask for `num_shards` embedded servers, or for the user's own servers at `urls` as well."""

    def stop(self) -> None:
        """Ask the run to end cleanly; returns at once."""

    def heartbeat(self) -> None:
        """Tell the run that the command that owns it is still alive."""

    def close(self) -> None:
        """Disconnect from the run and leave it as it is."""

    def shutdown(self) -> None:
        """End what is left of the run, and the local Ray that it started."""


class StopRequests(Protocol):
    """How often the end of the run was asked for."""

    count: int


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
        # Signals ignored from the start stay ignored: that is what nohup is for.
        self._before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        # A closed terminal, for one, sends its signal twice: to the process and to its group.
        if self.count and number != signal.SIGINT and time.monotonic() - self._first < SAME_SECONDS:
            return
        self._first = self._first or time.monotonic()
        self.count += 1
        if self.count > 1:
            raise Forced


def follow(
    client: RunClient,
    show: Callable[[Mapping[str, Any]], None],
    interrupts: StopRequests,
    say: Callable[[str], None] = print,
    hint: str = "",
    unseen: Callable[[], bool] = lambda: False,
    lost_seconds: float = LOST_SECONDS,
) -> dict[str, Any]:
    """Show the run's status about four times a second until it has ended; return its last status.

    The first interrupt, or lost output (`unseen`, or `show` fails), asks the run to stop and keeps following
    it; a second interrupt raises Forced. Also raises CommandFailed, with `hint` appended, when the run was
    killed, was silent for over `lost_seconds`, or was stopped because `show` failed.
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
        if status["time"] != stamp:  # Compared for change only: the clock itself may be set.
            stamp, heard = status["time"], time.monotonic()
        if time.monotonic() - heard > lost_seconds:
            raise CommandFailed(f"run {status['run']}: no sign of it for {lost_seconds:.0f} s{hint}")
        client.heartbeat()
        if interrupts.count == 1 and not told:
            say("stopping: actors drain, the learner saves a checkpoint (Ctrl-C again ends it at once)")
            told = True
        told = told or unseen() or bool(failure)
        if told and status["state"] != "stopping":
            _ask_to_stop(client)
        time.sleep(PERIOD_SECONDS)


def _failure_of(show: Callable[[Mapping[str, Any]], None], status: Mapping[str, Any]) -> str:
    """Show a status; return why that failed, empty if it did not: no fault in showing may cost a run."""
    try:
        show(status)
    except Exception as error:
        return f"it could not be shown: {type(error).__name__}: {error}"
    return ""


def _ask_to_stop(client: RunClient) -> None:
    """Ask the run to stop; to be repeated until it does, because a restarted supervisor has forgotten it."""
    from deploy.fleet.errors import FleetError

    with contextlib.suppress(FleetError):
        client.stop()
