"""kill -9 of `apexpert train`: 30 s later nothing of the run is left, and `apexpert resume` goes on."""

import json
import os
import signal
from pathlib import Path

import pytest

from deploy.run.folder import RunFolder
from learner.checkpoint import Checkpoint, CheckpointStore
from tests.helpers.deadline import patient, until
from tests.helpers.runs.catch_runs import flags, metric
from tests.helpers.runs.commands import NAME, SHORT, Started, Terminal
from tests.helpers.runs.processes import processes_of

ENDLESS = SHORT | {"run": SHORT["run"] | {"total_env_steps": 1_000_000}}


def status(folder: RunFolder) -> dict:
    """status.json as it is, whatever `apexpert status` would make of it."""
    return folder.read_json("status.json", {"metrics": {}})


def learns(folder: RunFolder, command: Started, updates: float) -> dict:
    """The status once so many updates are made; the command must live."""

    def look() -> dict | None:
        assert command.alive, command.printed()
        now = status(folder)
        return now if metric(now, "progress/updates") > updates else None

    return until(look, "updates", 120)


def newest(folder: RunFolder) -> Checkpoint:
    checkpoint = CheckpointStore(folder.checkpoints).load_newest()
    assert checkpoint is not None
    return checkpoint


@pytest.mark.faults_long
def test_nothing_is_left_after_30_seconds_and_resume_goes_on(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    folder = terminal.folder
    with terminal.started("train", "--preset", "laptop", *flags(ENDLESS)) as command:
        at_kill = learns(folder, command, 20)
        ray_folder = json.loads((folder.path / "ray.json").read_text())["local"]["folder"]
        assert len(processes_of(folder, ray_folder)) > 8
        command.process.kill()
        command.process.wait()
        until(lambda: not processes_of(folder, ray_folder), "the run's end", 30, pause=0.5)
    assert not Path(ray_folder).exists()
    stopped = status(folder)
    assert stopped["state"] == "stopped"
    assert "command" in stopped["message"]
    last = newest(folder)
    assert last.update == metric(stopped, "progress/updates"), "it ended cleanly, by a checkpoint"
    steps = last.document["env_steps"]
    assert steps >= metric(at_kill, "progress/env_steps")

    with terminal.started("resume", NAME) as command:
        where = f"resuming at {steps:,} env steps with {steps:,} transitions in replay, from {last.path.name}"
        command.prints(where)
        now = learns(folder, command, last.update + 20)
        assert metric(now, "replay/missing") == 0
        os.kill(command.process.pid, signal.SIGINT)
        assert command.process.wait(patient(60)) == 0, command.printed()
        assert f"apexpert resume {NAME}\n" in command.printed()
    ended = status(folder)
    assert ended["state"] == "stopped"
    assert newest(folder).update == metric(ended, "progress/updates") > last.update, "with a checkpoint"
