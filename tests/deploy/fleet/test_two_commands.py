"""Two commands that start one run within seconds: the first has it, the second leaves its files alone."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.cli.main import main
from deploy.fleet import RunClient, client, launch, run_state, supervisor
from deploy.fleet.ray.cluster import LocalRay
from deploy.fleet.run_state import load_ray, save_ray
from deploy.fleet.supervisor import Supervisor
from deploy.run import locks
from deploy.run.config import Config
from deploy.run.errors import RunBusy
from deploy.run.folder import RunFolder
from tests.helpers.runs.catch_runs import catch_config
from tests.helpers.runs.scripted_run import ScriptedRun, status

FIRST = LocalRay("first", 0, "/nowhere/first")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run with the records of whoever started it first."""
    folder = RunFolder.create(catch_config(tmp_path, run__name="r"))
    save_ray(folder, FIRST, FIRST.address)
    folder.write_json("status.json", folder.marked(status("running")))
    return folder


def records(folder: RunFolder) -> dict[str, str]:
    names = ("config.json", "fleet.json", "identity.json", "ray.json", "status.json")
    return {name: (folder.path / name).read_text() for name in names if (folder.path / name).exists()}


def test_a_supervisor_that_finds_the_run_at_work_writes_nothing(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_state, "LOCK_SECONDS", 0.0)
    monkeypatch.setattr(supervisor, "was_restarted", lambda: False)
    monkeypatch.setattr(supervisor, "log_to", lambda *_: None)
    monkeypatch.setattr(supervisor.signal, "signal", lambda *_: None)
    monkeypatch.setattr(Supervisor, "_leave", lambda _: None)
    before = records(folder)
    with folder.lock(), pytest.raises(RunBusy, match="r is at work already"):
        Supervisor(str(folder.path))
    assert records(folder) == before


def test_the_second_resume_is_one_line_and_changes_nothing(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It comes while the first one's Ray starts: nobody has the run's lock."""
    seen: list[Any] = []

    def launches(config: Config, folder: RunFolder, *, resume: bool, **_: object) -> ScriptedRun:
        if not seen:
            before = records(folder)
            seen.append(before)
            code = main(["resume", str(folder.path), "--actors", "3"])
            seen.extend([code, capsys.readouterr().err, records(folder) == before])
        return ScriptedRun([status("finished")])

    monkeypatch.setattr("deploy.fleet.operations.launch", launches)
    monkeypatch.setattr("deploy.cli.run.follow.PERIOD_SECONDS", 0.01)
    assert main(["resume", str(folder.path), "--actors", "2"]) == 0
    _, code, error, unchanged = seen
    assert (code, unchanged) == (2, True)
    assert "r is at work already" in error
    assert error.count("\n") == 1
    assert folder.load_config().actors.num_actors == 2


class Busy:
    """A supervisor that does not get the run's lock."""

    def __init__(self, *_: object) -> None:
        raise RunBusy("r is at work already")

    def heartbeat(self) -> None:
        """Never called."""


def test_a_start_that_finds_a_supervisor_at_work_keeps_its_record_of_ray(
    folder: RunFolder, shared_ray: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_ray(folder, None, "another cluster")
    before = json.loads((folder.path / "ray.json").read_text())
    monkeypatch.setattr(supervisor, "Supervisor", Busy)
    config = catch_config(folder.path.parent, run__name="r", run__ray_address=shared_ray)
    with pytest.raises(RunBusy, match="r is at work already: see apexpert status"):
        launch(config, folder, resume=False)
    assert json.loads((folder.path / "ray.json").read_text()) == before


def test_a_start_that_finds_the_name_taken_on_ray_says_so(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_wait_gone", lambda _: False)
    with pytest.raises(RunBusy):
        client._start_supervisor(folder.load_config(), folder, None, lambda why: None)


def test_a_command_that_ends_late_leaves_the_record_of_the_next_ray(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another test's Ray, which this process may be connected to, stays.
    monkeypatch.setattr(client.ray, "is_initialized", lambda: False)
    RunClient(folder, None, LocalRay("before", 0, "/nowhere/before")).shutdown()
    assert load_ray(folder) == (FIRST.address, FIRST)
    RunClient(folder, None, FIRST).shutdown()
    assert load_ray(folder) == ("", None)


@pytest.fixture
def words(folder: RunFolder) -> Iterator[contextlib.ExitStack]:
    """The last words of whoever was at work before, until they are closed."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(folder.last_words())
        yield stack


def test_a_start_waits_for_the_last_words_before_it(
    folder: RunFolder, words: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        words.close()

    monkeypatch.setattr(locks, "LAST_WORDS_SECONDS", 60.0)
    monkeypatch.setattr(locks, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=sleep))
    with folder.starting():
        assert len(waited) == 1


def test_last_words_without_end_do_not_keep_a_run_from_starting(
    folder: RunFolder, words: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LAST_WORDS_SECONDS", 0.0)
    with folder.starting(), pytest.raises(RunBusy), folder.starting():
        pytest.fail("two commands start the run at once")
    words.close()
