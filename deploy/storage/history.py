"""History of a run in an archive: its metrics, episodes and last status."""

import shutil
from pathlib import Path
from typing import Any

from deploy.run.folder import EPISODES, LEGS, METRICS, STATUS, RunFolder
from deploy.run.states import FINAL_STATES

OF_THE_RUN = ("message", "time", "target_actors", "metrics", "total_env_steps", "notes", "episodes")
"""Parts of a status that are of the run, and not of the processes at work on it."""


def export_history(run: RunFolder, archive: RunFolder) -> None:
    """Copy the run's history into the archive; a run at work, or lost, is as if stopped."""
    for name in (METRICS, EPISODES, LEGS):
        if (run.path / name).is_file():
            shutil.copyfile(run.path / name, archive.path / name)
    why = "exported while it was at work" if run.is_at_work() else "exported after it was lost"
    if status := status_to_keep(run, why):
        archive.write_json(STATUS, status)


def status_to_keep(run: RunFolder, why_stopped: str) -> dict[str, Any]:
    """Return the parts of a run's last status that are of the run; empty if it has none.

    A run that has not ended is as if stopped, with this message.
    """
    status: dict[str, Any] = run.read_json(STATUS, {})
    if not status:
        return {}
    kept = {name: status[name] for name in OF_THE_RUN if name in status}
    if status["state"] in FINAL_STATES:
        return kept | {"state": status["state"]}
    return kept | {"state": "stopped", "message": why_stopped}


def import_history(archive: Path, run: RunFolder) -> dict[str, Any]:
    """Copy an archive's history into a run that has none; return the run's status, empty if it has none."""
    exported = RunFolder(archive)
    if not run.metrics_path.exists() and not run.status_path.exists():
        for name in (METRICS, EPISODES, LEGS):
            if (archive / name).is_file():
                shutil.copyfile(archive / name, run.path / name)
        if status := exported.read_json(STATUS, {}):
            processes = {"run": run.name, "pid": 0, "ray_address": "", "actors": [], "learner": {}}
            run.write_json(STATUS, run.marked(processes | status))
    own: dict[str, Any] = run.read_json(STATUS, {})
    return own
