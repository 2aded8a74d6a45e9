"""kill -9 of `apexpert train`: 30 s later nothing of the run is left, and `apexpert resume` goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.fleet.run_state import load_ray
from deploy.run_folder import RunFolder
from tests.helpers.deadline import until
from tests.helpers.runs import CATCH, flags

APEXPERT = [sys.executable, "-m", "deploy.cli.main"]


def status(folder: RunFolder) -> dict:
    return folder.read_json("status.json", {}) if folder.status_path.exists() else {}


def updates(folder: RunFolder) -> float:
    return status(folder).get("metrics", {}).get("progress/updates", 0.0)


def processes_of(folder: RunFolder, ray_folder: str) -> dict[int, str]:
    """Everything that runs for this run: Ray, roles, guardian, servers; found by the two folders' names."""
    found = {}
    for process in psutil.process_iter():
        try:
            words = " ".join([*process.cmdline(), *process.environ().values(), process.cwd()])
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if ray_folder in words or str(folder.path) in words:
            found[process.pid] = " ".join(process.cmdline())[:80]
    return found


def start(arguments: list[str], log: Path) -> subprocess.Popen:
    with log.open("ab") as out:
        return subprocess.Popen(
            [*APEXPERT, *arguments], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )


@pytest.fixture
def ended(tmp_path) -> Iterator[RunFolder]:
    """The run's folder; what a failing test leaves of its Ray is ended."""
    folder = RunFolder(tmp_path / "killed")
    yield folder
    _, local = load_ray(folder)
    if local is not None:
        local.end()


def test_nothing_is_left_after_30_seconds_and_resume_goes_on(tmp_path, ended):
    folder, log = ended, tmp_path / "out.txt"
    run = CATCH["run"] | {"runs_dir": str(tmp_path), "name": "killed"}
    command = start(["train", "--preset", "laptop", *flags(CATCH | {"run": run})], log)
    try:
        until(lambda: updates(folder) > 20 or command.poll() is not None, "updates", 120)
        assert command.poll() is None, log.read_text()
        ray_folder = json.loads((folder.path / "ray.json").read_text())["local"]["folder"]
        assert len(processes_of(folder, ray_folder)) > 8
        at_kill = status(folder)["metrics"]
    finally:
        command.kill()
        command.wait()
    killed = time.monotonic()
    until(lambda: not processes_of(folder, ray_folder) or None, "the run's end", 30, pause=0.5)
    assert time.monotonic() - killed < 30
    assert not Path(ray_folder).exists()
    stopped = status(folder)
    assert stopped["state"] == "stopped"
    assert "command" in stopped["message"]
    assert folder.newest_checkpoint() is not None, "it ended cleanly, by a checkpoint"

    with log.open("wb"):
        pass
    resumed = start(["resume", str(folder.path)], log)
    try:
        goal = stopped["metrics"]["progress/updates"] + 20
        until(lambda: updates(folder) > goal or resumed.poll() is not None, "updates after resume", 120)
        assert resumed.poll() is None, log.read_text()
        assert status(folder)["metrics"]["replay/size"] >= at_kill["replay/size"]
        before, asked = folder.newest_checkpoint(), time.monotonic()
        os.kill(resumed.pid, signal.SIGINT)
        assert resumed.wait(60) == 0, log.read_text()
        assert time.monotonic() - asked < 15, "Ctrl-C ends it within 15 s"
        assert folder.newest_checkpoint() != before, "with a checkpoint"
        assert f"apexpert resume {folder.path}" in log.read_text()
    finally:
        resumed.kill()
    assert status(folder)["state"] == "stopped"
    assert "resuming at" in log.read_text()
