"""The last status of a run whose supervisor and Ray are gone, written by the last process that leaves."""

import logging
import time
from collections.abc import Callable, Mapping

import psutil

from deploy.run_folder import FINAL_STATES, RunFolder

logger = logging.getLogger(__name__)

GONE_SECONDS = 15.0
"""Within so long a Ray that was told to end is gone."""


def write_farewell(
    folder: RunFolder,
    metrics: Mapping[str, float],
    why: str,
    error: Exception | None,
    ray_pid: int,
    succeeded: Callable[[], bool] = lambda: False,
) -> None:
    """Make status.json say `stopped` (`failed` with an `error`) if nobody else will.

    `succeeded`: another learner is at work, which knows more.

    `ray_pid`: the raylet's process on this node. While it lives Ray starts the supervisor again, which then
    has the word; the same holds for a supervisor that is still at work on the run.
    """
    deadline = time.monotonic() + GONE_SECONDS
    while _is_alive(ray_pid) or folder.is_supervised():
        if time.monotonic() > deadline or succeeded():
            return
        time.sleep(0.1)
    if succeeded():
        return
    status = folder.read_json("status.json", {})
    if not status or status.get("state") in FINAL_STATES:
        return
    status |= {
        "state": "stopped" if error is None else "failed",
        "message": why if error is None else " ".join(str(error).split()),
        "time": time.time(),
        "actors": [],
        "metrics": status.get("metrics", {}) | dict(metrics),
    }
    try:
        folder.write_json("status.json", folder.marked(status))
    except OSError as refusal:
        logger.warning("the last status cannot be written: %s", refusal)


def has_ended(pid: int, seconds: float) -> bool:
    """Whether that process ends within so many seconds, or has."""
    deadline = time.monotonic() + seconds
    while _is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _is_alive(pid: int) -> bool:
    """Whether that process runs; one that nobody has reaped yet does not."""
    try:
        return pid > 1 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
