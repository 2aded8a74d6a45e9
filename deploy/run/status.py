"""Reads a run's status from its folder, for everyone but the supervisor, which writes it."""

import shlex
import time
from pathlib import Path
from typing import Any

from deploy.run.errors import RunError
from deploy.run.folder import RAY, STATUS, RunFolder
from deploy.run.states import ENDED, FINAL_STATES, LOST, NOT_STARTED

STALE_SECONDS = 30.0


def read_status(folder: RunFolder) -> dict[str, Any]:
    """Read status.json; `lost` when it says alive, is 30 s old, and no process here is at work on the run.

    If a process is at work and its status is old, the disk is most likely full: the `message` says so. Raises
    RunError for a broken status.json.
    """
    status: dict[str, Any] = folder.read_json(STATUS, None)
    if status is None:
        return {"run": folder.name, "state": NOT_STARTED, "metrics": {}, "message": "", "time": 0.0}
    ended = isinstance(status, dict) and status.get("state") in FINAL_STATES
    if not (ended or (isinstance(status, dict) and status.keys() >= {"state", "time"})):
        raise RunError(f"{folder.status_path}: is no status of a run", path=folder.status_path)
    if ended:
        return status
    if "folder" in status and not folder.is_own(status):
        copied = "a copy of a run that was at work; resume the copy"
        return status | {"state": LOST, "message": f"{copied}: {folder.command('resume')}"}
    age = time.time() - status["time"]
    if age <= STALE_SECONDS:
        return status
    if folder.is_at_work():
        why = renamed(folder) or "is the disk full?"
        return status | {"message": f"at work, but its status is {age:.0f} s old: {why}"}
    lost = f"no sign of it for {age:.0f} s; resume it: {folder.command('resume')}"
    return status | {"state": LOST, "message": lost}


def check_live(folder: RunFolder) -> None:
    """Raise RunError unless the run is at work."""
    status = read_status(folder)
    if status["state"] in ENDED:
        message = f" ({status['message']})" if status.get("message") else ""
        raise RunError(f"{folder.name} is not running: {status['state']}{message}", path=folder.path)


def path_at_start(folder: RunFolder) -> str:
    """Return the folder's path when its run was put on a Ray, which is where the roles write."""
    document = folder.read_json(RAY, {})
    # A record that came with a copy has the original's path.
    path = document.get("path") if folder.is_own(document) else None
    return str(path or folder.path.resolve())


def renamed(folder: RunFolder) -> str:
    """Return what happened to a folder renamed while its run is at work, and what to do; else empty."""
    before = Path(path_at_start(folder))
    # A link at the old path will do: what the run writes there arrives here.
    if not folder.is_supervised() or (before.exists() and before.samefile(folder.path)):
        return ""
    link = f"ln -sT {shlex.quote(str(folder.path))} {shlex.quote(str(before))}"
    return f"its folder was {before} when it started, and it writes there still; until it has ended: {link}"


def check_not_renamed(folder: RunFolder) -> None:
    """Raise RunError for a folder renamed while at work: a stop could not save its last checkpoint."""
    if why := renamed(folder):
        raise RunError(f"{folder.name}: {why}; then retry", path=folder.path)
