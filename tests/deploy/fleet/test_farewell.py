"""The last status of a run whose supervisor is gone."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayError

from deploy.fleet import RunClient, client, farewell
from deploy.fleet.errors import FleetError
from deploy.fleet.farewell import write_farewell
from deploy.fleet.ray.cluster import LocalRay
from deploy.run.folder import RunFolder
from learner.checkpoint import CheckpointStore
from tests.helpers.root import ROOT
from tests.helpers.runs.catch_runs import catch_config

NOW = {"progress/updates": 9.0}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(farewell, "GONE_SECONDS", 0.3)
    folder = RunFolder.create(catch_config(tmp_path, run__name="r"))
    metrics = {"progress/updates": 7.0, "a": 1.0}
    folder.write_json("status.json", {"state": "running", "actors": [{"pid": 1}], "metrics": metrics})
    return folder


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_it_says_stopped_with_the_last_numbers(folder: RunFolder) -> None:
    write_farewell(folder, NOW, "SIGTERM", None, dead_pid())
    status = folder.read_json("status.json", {})
    assert (status["state"], status["message"], status["actors"]) == ("stopped", "SIGTERM", [])
    assert status["metrics"] == {"progress/updates": 9.0, "a": 1.0}


def test_a_run_at_its_last_evaluation_has_finished(folder: RunFolder) -> None:
    status = {"state": "evaluating", "message": "the last checkpoint", "metrics": NOW}
    folder.write_json("status.json", status)
    write_farewell(folder, {}, "ended from outside", None, dead_pid())
    ended = folder.read_json("status.json", {})
    assert (ended["state"], ended["message"], ended["metrics"]) == ("finished", "", NOW)


def test_it_says_failed_when_the_last_checkpoint_could_not_be_written(folder: RunFolder) -> None:
    write_farewell(folder, NOW, "SIGTERM", OSError("no room"), dead_pid())
    status = folder.read_json("status.json", {})
    assert (status["state"], status["message"]) == ("failed", "no room")


def test_a_ray_that_lives_starts_the_supervisor_again_which_has_the_word(folder: RunFolder) -> None:
    write_farewell(folder, NOW, "SIGTERM", None, os.getpid())
    assert folder.read_json("status.json", {})["state"] == "running"


def test_a_supervisor_at_work_has_the_word(folder: RunFolder) -> None:
    with folder.lock():
        write_farewell(folder, NOW, "SIGTERM", None, dead_pid())
    assert folder.read_json("status.json", {})["state"] == "running"


def test_another_learner_that_came_after_it_has_the_word(folder: RunFolder) -> None:
    write_farewell(folder, NOW, "SIGTERM", None, dead_pid(), succeeded=lambda: True)
    assert folder.read_json("status.json", {})["state"] == "running"


def test_what_the_supervisor_has_said_last_stays(folder: RunFolder) -> None:
    folder.write_json("status.json", {"state": "finished", "metrics": {}})
    write_farewell(folder, NOW, "SIGTERM", None, dead_pid())
    assert folder.read_json("status.json", {})["state"] == "finished"


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A disk without room for the next attempts that it holds."""
    monkeypatch.setattr(farewell, "RETRY_SECONDS", 0.0)
    attempts, plain = [1, 2, 3], RunFolder.write_json

    def write(folder: RunFolder, name: str, document: Any) -> None:
        if attempts:
            attempts.pop()
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(folder, name, document)

    monkeypatch.setattr(RunFolder, "write_json", write)
    return attempts


def test_a_full_disk_is_tried_until_it_has_room(folder: RunFolder, full: list[int]) -> None:
    write_farewell(folder, NOW, "SIGTERM", None, dead_pid())
    assert not full
    assert folder.read_json("status.json", {})["state"] == "stopped"


def test_a_disk_that_stays_full_is_given_up(folder: RunFolder, full: list[int]) -> None:
    write_farewell(folder, NOW, "SIGTERM", None, dead_pid(), seconds=-1.0)
    assert full == [1, 2], "one attempt"


def test_a_run_that_is_resumed_while_the_disk_is_full_has_the_word(
    folder: RunFolder, full: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunFolder, "is_supervised", lambda _: not full)
    write_farewell(folder, NOW, "SIGTERM", None, dead_pid())
    assert folder.read_json("status.json", {})["state"] == "running"


def test_a_run_counts_as_at_work_until_its_last_word_is_said(folder: RunFolder) -> None:
    """Whoever waits for it must not take it for killed a moment too early."""
    assert not folder.is_at_work()
    with folder.last_words():
        assert folder.is_at_work()
        assert not folder.is_supervised()
    held = CheckpointStore(folder.checkpoints).hold()
    assert folder.is_at_work()
    held.close()
    assert not folder.is_at_work()


def test_the_learners_process_needs_no_ray() -> None:
    """It would take a second of each start, and it has to work where Ray is gone."""
    code = "import sys, deploy.fleet.processes.learner_process; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_start_whose_ray_is_ended_does_not_wait_for_its_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "wait", lambda answers, timeout: ([], answers))
    with pytest.raises(FleetError, match="its Ray was ended while it started"):
        client._wait_for(object(), LocalRay("127.0.0.1:1", dead_pid(), "/nowhere"))
    monkeypatch.setattr(client, "START_SECONDS", 0.0)
    with pytest.raises(RayError, match="no answer within 0 s"):
        client._wait_for(object(), None)


@pytest.mark.parametrize(("told_to_stop", "state"), [(True, "stopped"), (False, "running")])
def test_a_command_that_was_told_to_stop_says_it_where_nobody_else_did(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, told_to_stop: bool, state: str
) -> None:
    """Of a run that got SIGTERM while it started: no learner was at work that could."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # it would let go of the suite's
    local = LocalRay("127.0.0.1:1", dead_pid(), "/nowhere")
    said = RunClient(folder, None, local).last_words(0.1, told_to_stop)
    assert said["state"] == folder.read_json("status.json", {})["state"] == state
