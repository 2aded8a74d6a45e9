"""The status of a run without a supervisor: its last, or why the run does not start."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping

import psutil

from apexpert.errors import one_line
from deploy.run.folder import STATUS, RunFolder
from deploy.run.states import EVALUATING, FINAL_STATES

logger = logging.getLogger(__name__)

GONE_SECONDS = 15.0
"""A Ray that was told to end is gone within this time."""
TRIED_SECONDS, TERMINATED_SECONDS = 60.0, 5.0
"""How long writing the status is tried: a full disk often has room again within seconds, and a process that
got SIGTERM has only a few."""
RETRY_SECONDS, PENDING_SECONDS = 0.5, 5.0


def write_farewell(
    folder: RunFolder,
    metrics: Mapping[str, float],
    why: str,
    error: Exception | None,
    ray_pid: int,
    succeeded: Callable[[], bool] = lambda: False,
    seconds: float = TRIED_SECONDS,
) -> None:
    """Write `stopped` (`failed` with an `error`) to status.json if nobody else will; try for `seconds`.

    A run that was at its last evaluation has `finished`: its last checkpoint is written.

    `succeeded`: whether another learner is at work, which knows more.

    `ray_pid`: the raylet's process on this node. While it lives, Ray restarts the supervisor, which then
    writes the status; so does a supervisor that is still at work on the run.
    """
    deadline = time.monotonic() + GONE_SECONDS
    while _is_alive(ray_pid) or folder.is_supervised():
        if time.monotonic() > deadline or succeeded():
            return
        time.sleep(0.1)
    said = {
        "state": "stopped" if error is None else "failed",
        "message": why if error is None else one_line(error),
    }
    deadline = time.monotonic() + seconds
    # A run that has been resumed meanwhile also writes its own status.
    while not (succeeded() or folder.is_supervised()) and (refusal := _refusal_of(folder, metrics, said)):
        if time.monotonic() > deadline:
            logger.warning("the last status cannot be written: %s", refusal)
            return
        time.sleep(RETRY_SECONDS)


def _refusal_of(folder: RunFolder, metrics: Mapping[str, float], said: dict[str, str]) -> OSError | None:
    """Write the last status unless there is one; return the error if that fails."""
    status = folder.read_json(STATUS, {})
    if not status or status.get("state") in FINAL_STATES:
        return None
    # Counters of others, such as the actors', stay as the supervisor wrote them last.
    counted = status.get("metrics", {}) | dict(metrics)
    if status.get("state") == EVALUATING and said["state"] == "stopped":
        said = {"state": "finished", "message": ""}
    status |= said | {"time": time.time(), "actors": [], "metrics": counted}
    try:
        folder.write_json(STATUS, folder.marked(status))
    except OSError as refusal:
        return refusal
    return None


@contextlib.contextmanager
def pending_status(folder: RunFolder) -> Iterator[Callable[[str], None]]:
    """Give a function that notes in status.json why the run does not start; an error restores what was there.

    For the command that starts the run, while there is no supervisor: it holds `folder.starting()`.
    """
    before, noted = folder.read_json(STATUS, None), 0.0

    def note(why: str) -> None:
        nonlocal noted
        if why and time.monotonic() - noted >= PENDING_SECONDS:
            noted = time.monotonic()
            known = {"metrics": {}, "notes": [], "target_actors": 0, "total_env_steps": 0} | (before or {})
            said = {"run": folder.name, "state": "starting", "message": why, "time": time.time()}
            with contextlib.suppress(OSError):  # A full disk: the command itself prints it.
                folder.write_json(STATUS, folder.marked(known | said | {"actors": []}))

    try:
        yield note
    except BaseException:
        with contextlib.suppress(OSError):
            if before is not None:
                folder.write_json(STATUS, before)
            else:
                folder.status_path.unlink(missing_ok=True)
        raise


def has_ended(pid: int, seconds: float) -> bool:
    """Whether the process has ended, or ends within `seconds`."""
    deadline = time.monotonic() + seconds
    while _is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        # 0 stands for no Ray; 1 is the parent of a worker whose raylet has ended.
        return pid > 1 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
