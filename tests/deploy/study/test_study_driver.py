"""The driver of a study, over folders of runs whose commands are played by the test."""

import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest

from deploy.run.errors import RunError
from deploy.run.folder import STATUS, RunFolder
from deploy.study import driver as module
from deploy.study.driver import MOST_STARTS, Driver
from deploy.study.errors import StudyError
from deploy.study.file import StudyFile
from deploy.study.folder import StudyFolder
from deploy.study.plan import PlannedRun, plan
from tests.helpers.deadline import until
from tests.helpers.runs.studies import ARMS, SIZES, STUDY, read


class Played:
    """A command that starts a run: `answer` says how it ends, and what its run does."""

    calls: ClassVar[list[list[str]]] = []
    answer = "running"

    def __init__(self, words: list[str], inherited: tuple[int, ...]) -> None:
        Played.calls.append(words)
        self.error: str | None = ""
        if self.answer == "refused":
            self.error = "--environment.game: no such game"
            return
        if words[0] == "resume" and self.answer == "not resumed":
            self.error = "Ray did not start"
            return
        if words[0] == "train":
            self.folder = RunFolder.create(self.runs[words[words.index("--name") + 1]].config)
        else:
            self.folder = RunFolder(Path(words[1]))
        write(self.folder, self.answer)

    runs: ClassVar[dict[str, PlannedRun]] = {}


def write(folder: RunFolder, state: str, message: str = "") -> None:
    document = {"run": folder.name, "state": state, "metrics": {}, "message": message}
    folder.write_json(STATUS, folder.marked(document | {"time": time.time(), "total_env_steps": 30000}))


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFile:
    Played.calls, Played.answer = [], "running"
    monkeypatch.setattr(module, "Start", Played)
    monkeypatch.chdir(tmp_path)
    return read(tmp_path, STUDY + ARMS + SIZES)


def driven(study: StudyFile, at_once: int = 2, *, retry: bool = False) -> Driver:
    folder = StudyFolder.create_or_open(study, study.size("full"), Path("runs"))
    runs = plan(study, study.size("full"), folder.path)
    Played.runs = {run.name: run for run in runs}
    return Driver(folder, runs, at_once, retry=retry)


def ended(driver: Driver, state: str, message: str = "") -> None:
    """Let every run that is at work end so."""
    for each in driver.states:
        folder = driver._folder.run(each.planned)
        if each.at_work and folder is not None:
            write(folder, state, message)


def test_as_many_runs_as_fit_until_all_have_finished(study):
    driver = driven(study, 3)
    steps = 0
    while not driver.done:
        driver.step()
        assert sum(state.at_work for state in driver.states) <= 3
        ended(driver, "finished")
        steps += 1
        assert steps < 20
    assert [words[0] for words in Played.calls] == ["train"] * 8
    assert {state.state for state in driver.states} == {"finished"}


def test_a_new_driver_resumes_what_was_stopped_or_lost_and_adopts_what_is_at_work(study):
    first = driven(study, 3)
    first.step()
    names = [state.planned.name for state in first.states]
    folders = [first._folder.run(state.planned) for state in first.states[:3]]
    write(folders[0], "finished")
    write(folders[1], "stopped")
    Played.calls = []
    second = driven(study, 2)
    second.step()
    assert Played.calls == [["resume", str(folders[1].path), "--detach"]]
    assert [state.state for state in second.states[:4]] == ["finished", "starting", "running", "waiting"]
    assert second._folder.record["runs"][names[1]]["starts"] == 2


def test_a_run_that_a_person_stops_is_left_to_the_next_driver(study):
    driver = driven(study, 1)
    driver.step()
    driver.step()
    ended(driver, "stopped")
    driver.step()
    assert driver.states[0].over
    assert [words[0] for words in Played.calls] == ["train", "train"], "the next run has its place"
    assert not driven(study, 1).states[0].over


def test_a_run_that_was_stopped_by_its_ray_is_resumed(study):
    driver = driven(study, 1)
    driver.step()
    driver.step()
    ended(driver, "stopped", "its Ray has ended")
    driver.step()
    assert [words[0] for words in Played.calls] == ["train", "resume"]


def test_a_run_that_never_comes_to_its_end_is_given_up(study):
    driver = driven(study, 1)
    for _ in range(2 * MOST_STARTS):
        driver.step()
        ended(driver, "stopped", "its Ray has ended")
        driver.step()
        if driver.states[1].at_work:
            break
    assert driver.states[0].state == "failed"
    assert f"was started {MOST_STARTS} times" in driver.states[0].message
    assert "its Ray has ended" in driver.states[0].message


def test_a_refused_run_fails_with_its_line_and_the_others_go_on(study):
    driver = driven(study, 1)
    Played.answer = "refused"
    driver.step()
    Played.answer = "running"
    driver.step()
    assert (driver.states[0].state, driver.states[0].message) == (
        "failed",
        "--environment.game: no such game",
    )
    assert driver.states[1].at_work
    Played.calls = []
    assert driven(study).states[0].state == "failed", "it would be refused again"
    again = driven(study, retry=True)
    again.step()
    assert Played.calls[0][0] == "train"


def test_a_run_that_cannot_be_resumed_is_tried_again_and_then_fails_with_its_line(study):
    driver = driven(study, 1)
    driver.step()
    write(driver._folder.run(driver.states[0].planned), "stopped")
    Played.answer, Played.calls = "not resumed", []
    second = driven(study, 1)
    for _ in range(MOST_STARTS):
        second.step()
        assert not second.states[0].held, "nobody has stopped it"
    Played.answer = "running"
    second.step()
    assert [words[0] for words in Played.calls] == ["resume"] * MOST_STARTS + ["train"]
    assert second.states[0].state == "failed"
    assert second.states[0].message.endswith("did not come to its end; Ray did not start")


def test_a_folder_that_a_killed_command_left_half_made_is_made_anew(study):
    driver = driven(study, 1)
    home = driver._folder.path / driver.states[0].planned.name
    (home / "checkpoints").mkdir(parents=True)
    (home / "identity.json").write_text("{}")
    driver.step()
    assert (home / "config.json").is_file()


def test_a_folder_with_anything_of_a_run_is_never_removed(study):
    driver = driven(study, 1)
    home = driver._folder.path / driver.states[0].planned.name
    (home / "checkpoints").mkdir(parents=True)
    (home / "checkpoints" / "weights").touch()
    with pytest.raises(RunError, match="is there already"):
        driver.step()
    assert (home / "checkpoints" / "weights").exists()


def test_a_command_that_starts_a_run_keeps_the_next_driver_out(study, monkeypatch, tmp_path):
    """Without it a driver would start a second command for a run that has no folder yet."""
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    wait = [sys.executable, "-c", "input()"]
    driver = driven(study, 1)
    with driver._folder.driving():
        held = driver._folder.inherited
        child = subprocess.Popen(wait, stdin=subprocess.PIPE, pass_fds=held)
    with pytest.raises(StudyError, match="is still starting"), driver._folder.driving():
        pass
    child.communicate(b"\n")
    with driver._folder.driving():
        pass
    monkeypatch.setattr(
        module, "PYTHON", (sys.executable, "-c", "import os, sys; os.fstat(int(sys.argv[1]))")
    )
    with driver._folder.driving():
        start = module.Start([str(driver._folder.inherited[0])], driver._folder.inherited)
        start._process.wait()
        assert start.error == "", "the command has the lock"


def test_a_failed_run_is_resumed_only_when_asked(study):
    driver = driven(study, 1)
    driver.step()
    driver.step()
    ended(driver, "failed", "no memory")
    driver.step()
    assert (driver.states[0].state, driver.states[0].message) == ("failed", "no memory")
    Played.calls = []
    second = driven(study, 8, retry=True)
    second.step()
    assert [words[0] for words in Played.calls].count("resume") == 1


def test_a_run_with_a_broken_folder_counts_as_failed(study):
    driver = driven(study, 1)
    driver.step()
    driver.step()
    driver._folder.run(driver.states[0].planned).status_path.write_text("{")
    driver.step()
    assert driver.states[0].state == "failed"
    assert "status.json" in driver.states[0].message


def test_a_stop_ends_what_is_at_work_and_goes_on_after_one_that_cannot_be_stopped(study, monkeypatch):
    driver = driven(study, 2)
    driver.step()
    driver.step()
    stopped, told = [], []

    def stop(run: RunFolder) -> dict[str, str]:
        stopped.append(run.name)
        if len(stopped) == 1:
            raise RuntimeError("does not answer")
        return {"state": "stopped"}

    monkeypatch.setattr(module, "stop", stop)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    driver.stop(told.append)
    assert stopped == ["dense-Pong-1", "soft-2-Pong-1"]
    assert told == ["dense-Pong-1: does not answer", "soft-2-Pong-1: stopped"]


def test_after_a_stop_the_states_are_those_of_the_end(study, monkeypatch):
    driver = driven(study, 2)
    driver.step()

    def stop(run: RunFolder) -> dict[str, str]:
        write(run, "stopped")
        return {"state": "stopped"}

    monkeypatch.setattr(module, "stop", stop)
    driver.stop(lambda _: None)
    assert [state.state for state in driver.states[:3]] == ["stopped", "stopped", "waiting"]


def test_what_the_study_has_heeded_its_runs_do_not_heed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """$RAY_ADDRESS, which --ray-address local has overridden, and the job that the study may run in."""
    monkeypatch.setattr(module, "PYTHON", (sys.executable, "-c"))
    for name in module.DECIDED:
        monkeypatch.setenv(name, "set")
    start = module.Start([f"import os, sys; sys.exit(any(name in os.environ for name in {module.DECIDED}))"])
    assert until(lambda: start.error, "its end") == "", "exit code 0"
