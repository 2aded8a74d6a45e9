"""Runs that are ended from outside: all processes at once, or one that all others need, or whoever reads.

SIGTERM to every process, Ray's and the servers' included, is how a service manager, Slurm and a container end
a run; `nohup`, a closed standard error and a pipe whose reader dies are how its output goes. One run serves
all tests of this file, in their order.
"""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.run.folder import RunFolder
from learner.checkpoint import CheckpointStore
from tests.helpers.deadline import patient, until
from tests.helpers.runs.catch_runs import flags, metric
from tests.helpers.runs.commands import APEXPERT, NAME, SHORT, Started, Terminal
from tests.helpers.runs.processes import is_alive, processes_of, send

ENDLESS = SHORT | {"run": SHORT["run"] | {"total_env_steps": 1_000_000}}


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    return Terminal(tmp_path_factory.mktemp("terminated"))


def status(folder: RunFolder) -> dict[str, Any]:
    return folder.read_json("status.json", {"metrics": {}})


def learns(folder: RunFolder, command: Started, updates: float) -> None:
    def look() -> bool:
        assert command.alive, command.printed()
        return metric(status(folder), "progress/updates") > updates

    until(look, "updates", 120)


def ray_of(folder: RunFolder) -> str:
    return str(json.loads((folder.path / "ray.json").read_text())["local"]["folder"])


def ends(folder: RunFolder, ray_folder: str) -> None:
    until(lambda: not processes_of(folder, ray_folder), "the end of all processes", 30, pause=0.2)


def stored(terminal: Terminal) -> int:
    """Items that the shards hold, by `apexpert replay`."""
    done = terminal.run("replay", NAME, "--json")
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)["items"])


def test_sigterm_to_every_process_saves_a_checkpoint_and_loses_nothing(terminal: Terminal) -> None:
    folder = terminal.folder
    with terminal.started("train", "--preset", "laptop", *flags(ENDLESS)) as command:
        learns(folder, command, 20)
        ray_folder = ray_of(folder)
        pids = processes_of(folder, ray_folder)
        assert len(pids) > 10
        send(signal.SIGTERM, [*pids, command.process.pid])
        assert command.process.wait(patient(30)) == 0, command.printed()
        ends(folder, ray_folder)
    assert f"apexpert resume {NAME}\n" in command.printed()
    assert "raylet" not in command.printed(), "Ray's own text"
    assert status(folder)["state"] == terminal.status()["state"] == "stopped"
    newest = CheckpointStore(folder.checkpoints).load_newest()
    assert newest is not None
    assert newest.update >= metric(status(folder), "progress/updates") > 20
    items, known = stored(terminal), newest.document["env_steps"]
    assert items >= known, "the checkpoint knows of nothing that is not there"

    said = outlives_its_terminal(terminal, newest.update)
    assert f"resuming at {known:,} env steps with {known:,} transitions in replay" in said
    metrics = status(folder)["metrics"]
    assert metrics["replay/inserted"] >= items, "every acknowledged segment is found"
    assert (metrics["replay/missing"], metrics["replay/lost"]) == (0, 0)


def without_error_and_hangup() -> None:
    """As `nohup` starts a command, and `2>&-`."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.close(2)


def outlives_its_terminal(terminal: Terminal, update: int) -> str:
    """Resume the run at this update into a pipe whose reader dies; return what was printed until then.

    It goes on after a SIGHUP, and ends with a checkpoint after the Ctrl-C that its reader has died of.
    """
    folder = terminal.folder
    with terminal.ending_ray():
        reader, writer = os.pipe()
        process = subprocess.Popen(
            [APEXPERT, "resume", NAME], cwd=terminal.path, env=terminal.environment(),
            stdin=subprocess.DEVNULL, stdout=writer, preexec_fn=without_error_and_hangup,
        )  # fmt: skip
        os.close(writer)
        log = terminal.path / "seen.txt"
        log.touch()
        command = Started(process, log)
        try:
            learns(folder, command, update + 10)
            os.kill(process.pid, signal.SIGHUP)
            learns(folder, command, metric(status(folder), "progress/updates") + 10)
            log.write_bytes(os.read(reader, 2**20))
            assert "running" in command.printed(), "it was seen until now"

            os.close(reader)
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(patient(60)) == 0
        finally:
            process.kill()
            process.wait()
    until(lambda: status(folder)["state"] == "stopped", "the last status", 10)
    newest = CheckpointStore(folder.checkpoints).load_newest()
    assert newest is not None
    assert newest.update == metric(status(folder), "progress/updates") > update + 20
    return command.printed()


@pytest.fixture
def running(terminal: Terminal) -> Iterator[Started]:
    """The run, at work: resumed where the test above has left it, or a new one. It leaves no process."""
    folder = terminal.folder
    new = ["train", "--preset", "laptop", *flags(ENDLESS)]
    words = ["resume", NAME] if folder.config_path.exists() else new
    before = status(folder).get("pid")
    with terminal.started(*words) as command:

        def is_at_work() -> bool:
            assert command.alive, command.printed()
            now = status(folder)
            return now.get("pid") != before and now["learner"].get("ready", False)

        until(is_at_work, "the learner", 120)
        ray_folder = ray_of(folder)
        yield command
    ends(folder, ray_folder)


@pytest.mark.faults_long
def test_sigkill_to_every_process_is_told_at_once(terminal: Terminal, running: Started) -> None:
    folder = terminal.folder
    learns(folder, running, metric(status(folder), "progress/updates"))
    ray_folder = ray_of(folder)
    send(signal.SIGKILL, list(processes_of(folder, ray_folder)))
    assert running.process.wait(patient(45)) == 1, "it does not wait for a minute"
    assert f"its processes were ended without a word; resume it: apexpert resume {NAME}" in running.printed()
    ends(folder, ray_folder)


@pytest.mark.faults_long
def test_a_killed_raylet_costs_no_update_and_the_learner_alone_is_started_again(
    terminal: Terminal, running: Started
) -> None:
    folder = terminal.folder
    start = metric(status(folder), "progress/updates")
    learns(folder, running, start + 10)
    # SIGTERM to the learner alone: it saves, and goes on from there in another process.
    pid = status(folder)["learner"]["pid"]
    send(signal.SIGTERM, [pid])
    now = until(
        lambda: (s := status(folder))["learner"].get("ready") and s["learner"]["pid"] != pid and s,
        "another learner",
        90,
    )
    resumed_at = re.findall(r"in replay, from update-(\d+)", folder.log_path.read_text())[-1]
    assert int(resumed_at) >= start + 10, "it saved before it ended"
    learns(folder, running, metric(now, "progress/updates") + 5)

    ray_folder = ray_of(folder)
    raylets = [p for p, words in processes_of(folder, ray_folder).items() if "/raylet/raylet" in words]
    assert raylets
    at_kill = metric(status(folder), "progress/updates")
    send(signal.SIGKILL, raylets)
    assert running.process.wait(patient(30)) == 1
    assert "was ended from outside: Ray has ended" in running.printed()
    ends(folder, ray_folder)
    newest = CheckpointStore(folder.checkpoints).load_newest()
    assert newest is not None
    assert newest.update >= at_kill
    assert (status(folder)["state"], metric(status(folder), "progress/updates")) == ("stopped", newest.update)


@pytest.mark.faults_long
def test_a_learner_that_hangs_is_ended_and_started_again(terminal: Terminal, running: Started) -> None:
    folder = terminal.folder
    pid = status(folder)["learner"]["pid"]
    assert is_alive(pid)
    send(signal.SIGSTOP, [pid])
    now = until(
        lambda: (s := status(folder))["learner"].get("ready") and s["learner"]["pid"] != pid and s,
        "another learner",
        150,
    )
    until(lambda: not is_alive(pid), "the end of the one that hangs")
    learns(folder, running, metric(now, "progress/updates") + 5)
    now = status(folder)
    assert (metric(now, "replay/missing"), metric(now, "replay/lost")) == (0, 0)


@pytest.mark.faults_long
def test_sigterm_to_every_process_of_a_run_that_starts(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    folder = terminal.folder
    with terminal.started("train", "--preset", "laptop", *flags(ENDLESS)) as command:
        until(lambda: (folder.path / "ray.json").exists() and status(folder).get("pid"), "the supervisor", 60)
        ray_folder = ray_of(folder)
        until((Path(ray_folder) / "claimed").exists, "the command's knowing of it", 60)
        send(signal.SIGTERM, [*processes_of(folder, ray_folder), command.process.pid])
        assert command.process.wait(patient(30)) == 0, command.printed()
        ends(folder, ray_folder)
    assert terminal.status()["state"] == "stopped"
    assert f"apexpert resume {NAME}\n" in command.printed()


@pytest.mark.faults_long
def test_sigterm_to_every_process_of_a_run_that_evaluates_at_its_end(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    folder = terminal.folder
    endless = {"evaluation": {"every_env_steps": 10_000, "episodes": 1_000_000}}
    with terminal.started("train", "--preset", "laptop", *flags(SHORT | endless)) as command:
        until(lambda: status(folder).get("state") == "evaluating", "the last evaluation", 120)
        ray_folder = ray_of(folder)
        send(signal.SIGTERM, [*processes_of(folder, ray_folder), command.process.pid])
        assert command.process.wait(patient(30)) == 0, command.printed()
        ends(folder, ray_folder)
    newest = CheckpointStore(folder.checkpoints).load_newest()
    assert newest is not None
    assert newest.document["env_steps"] >= SHORT["run"]["total_env_steps"]
    assert terminal.status()["state"] == "finished"


@pytest.mark.faults_long
def test_a_ray_that_is_told_to_end_ends_the_run_with_a_checkpoint(
    terminal: Terminal, running: Started
) -> None:
    folder = terminal.folder
    learns(folder, running, metric(status(folder), "progress/updates") + 10)
    ray_folder = ray_of(folder)
    at_end = metric(status(folder), "progress/updates")
    send(signal.SIGTERM, [json.loads((folder.path / "ray.json").read_text())["local"]["pid"]])
    assert running.process.wait(patient(30)) == 1
    assert "was ended from outside" in running.printed()
    ends(folder, ray_folder)
    newest = CheckpointStore(folder.checkpoints).load_newest()
    assert newest is not None
    assert newest.update >= at_end
    assert terminal.status()["state"] == "stopped"


@pytest.mark.faults_long
def test_stop_ends_a_run_whose_supervisor_hangs_with_a_checkpoint(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    folder = terminal.folder
    with terminal.started("train", "--preset", "laptop", *flags(ENDLESS)) as command:
        learns(folder, command, 20)
        ray_folder = ray_of(folder)
        send(signal.SIGSTOP, [status(folder)["pid"]])
        stopped = terminal.run("stop", NAME)
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        assert "it did not answer" in stopped.stdout
        assert "r: stopped; checkpoint" in stopped.stdout
        command.process.wait(patient(30))
        ends(folder, ray_folder)
    newest = CheckpointStore(folder.checkpoints).load_newest()
    assert newest is not None
    assert newest.update == metric(status(folder), "progress/updates") > 20
