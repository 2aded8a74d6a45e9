"""Commands on a run that is there: resume, status, list, scale, stop, evaluate, plot."""

import errno
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from deploy.cli.main import main
from deploy.fleet import operations
from deploy.fleet.errors import FleetError, WrongFlag
from deploy.run.config import ConfigError, with_values
from deploy.run.errors import RunBusy
from deploy.run.folder import RunFolder
from deploy.run.presets import LAPTOP
from tests.helpers.runs.scripted_run import ScriptedRun, run_line, saved_run, status


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "ray.json"),
        RunBusy("r is at work already"),
        FleetError("Ray did not start"),
        WrongFlag("--ray-address: no Ray answers"),
        KeyboardInterrupt(),
    ],
)
def test_a_resume_that_fails_changes_nothing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved_run()

    def launch(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(operations, "launch", launch)
    with pytest.raises((type(error), ConfigError)):
        operations.resume(folder, num_actors=3)
    assert folder.load_config().actors == LAPTOP.actors


def test_resume_goes_on_with_the_saved_config(launched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved_run()
    notes = ["12:00:00 resuming at 6,000 env steps with 6,000 transitions in replay"]
    started = [status("running", notes=notes), status("finished", notes=notes)]
    calls = launched(ScriptedRun([status("starting", metrics={}), *started]))
    code, out, _ = run_line(capsys, "resume", "r", "--total-env-steps", "20000")
    assert code == 0
    config, _, resume = calls[0]
    assert resume
    assert config.run.total_env_steps == 20_000
    assert config.learner == LAPTOP.learner
    assert folder.load_config().run.total_env_steps == 20_000
    assert out.count(notes[0]) == 1


def test_a_copy_by_hard_links_goes_on_in_files_of_its_own(launched: Any, tmp_path: Path) -> None:
    folder = saved_run()
    appended = [folder.metrics_path, folder.episodes_path, folder.log_path, folder.checkpoints / ".lock"]
    saved = folder.checkpoints / "update-000000001" / "document.json"
    saved.parent.mkdir()
    for path in (*appended, saved, folder.path / "lock"):
        path.write_text("the original's\n")
    copy = RunFolder(Path(shutil.copytree(folder.path, tmp_path / "copy", copy_function=os.link)))
    launched(ScriptedRun([status("finished")]))
    assert main(["resume", str(copy.path)]) == 0
    for path in (*appended, folder.path / "lock"):
        own = copy.path / path.relative_to(folder.path)
        assert own.read_text() == "the original's\n"
        assert not own.samefile(path), path.name
    assert saved.stat().st_nlink == 2, "a checkpoint is never written into"
    with folder.lock(), copy.lock():
        pass


def test_a_finished_run_needs_a_later_end(launched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    saved_run("finished")
    calls = launched(ScriptedRun([status("finished")]))
    code, _, err = run_line(capsys, "resume", "r")
    assert code == 2
    assert "--total-env-steps 10000: the run is finished already; give a larger number" in err
    assert calls == []


def test_a_run_at_work_is_not_resumed(launched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved_run("running")
    launched(ScriptedRun([status("running")]))
    with folder.lock():
        code, _, err = run_line(capsys, "resume", "r")
    assert code == 2
    assert "r is at work already" in err


def test_status_and_list_read_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_line(capsys, "list") == (0, "no runs under runs\n", "")
    saved_run("running", notes=["actor 3 restarted"])
    code, out, _ = run_line(capsys, "status", "r")
    assert code == 0
    assert "r: running, 6,000 of 10,000 env steps" in out
    assert "-20.50" in out
    assert "actor 3 restarted" in out
    assert json.loads(run_line(capsys, "status", "r", "--json")[1])["state"] == "running"
    _, out, _ = run_line(capsys, "list")
    assert out.splitlines()[1].split() == ["r", "pong", "running", "6,000", "/", "10,000", "-20.50"]


def test_a_run_at_work_whose_status_cannot_be_written_is_not_lost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved_run("running", time=time.time() - 40)
    with RunFolder(Path("runs/r")).lock():
        code, out, _ = run_line(capsys, "status", "r")
    assert code == 0
    assert "r: running" in out
    assert "its status is 40 s old: is the disk full?" in out


def test_a_run_that_was_killed_shows_as_lost(launched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    saved_run("running", time=time.time() - 40)
    launched(ScriptedRun([status("running")]))
    _, out, _ = run_line(capsys, "status", "r")
    assert "r: lost" in out
    assert "apexpert resume r" in out
    code, _, err = run_line(capsys, "scale", "r", "--actors", "2")
    assert code == 2
    assert "r is not running: lost" in err


def test_a_broken_run_neither_hides_the_others_from_list_nor_fills_the_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_run()
    for name, config in (("bad", "{"), ("old", '{"network": {"heads": 1}}')):
        Path("runs", name).mkdir()
        Path("runs", name, "config.json").write_text(config)
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = run_line(capsys, "list")
    assert code == 0
    _, *lines = out.splitlines()
    assert [line.split()[:3] for line in lines[:3]] == [
        ["bad", "-", "broken"], ["old", "-", "broken"], ["r", "pong", "stopped"]
    ]  # fmt: skip
    bad, *more, old = lines[3:]
    assert bad == "bad: config.json: cannot be read: Expecting property name"
    assert all(line.startswith("  ") for line in more)
    assert old == "old: config.json: config: network: unknown field 'heads'"
    assert max(map(len, lines)) <= 60


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ([], "--actors, --shards or --add-urls: say what to change"),
        (["--actors", "0"], "--actors 0: must be 1 to 10000, auto, or auto:MIN-MAX"),
        (["--actors", "10001"], "--actors 10001: must be 1 to 10000"),
        (["--actors", "auto:9-8"], "--actors auto:9-8: must be 1 to 10000"),
        (["--shards", "2"], "--shards 2: must be more than the 2 that the run has"),
        (["--add-urls", "redis://localhost:1"], "--add-urls: the run has embedded servers"),
    ],
)
def test_a_wrong_scale_is_one_line_and_asks_nothing(
    argv: list[str], part: str, launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_run("running")
    run = ScriptedRun([status("running")])
    launched(run)
    code, out, err = run_line(capsys, "scale", "r", *argv)
    assert (code, out, err.count("\n"), run.calls) == (2, "", 1, [])
    assert part in err


def test_scale_and_stop_reach_the_run(launched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved_run("running")
    run = ScriptedRun([status("running")], after_stop=[status("stopped")])
    launched(run)
    code, out, _ = run_line(capsys, "scale", "r", "--actors", "3")
    assert code == 0
    assert "3 actors asked for" in out
    assert "apexpert: --shards 65: must be 1 to 64\n" in run_line(capsys, "scale", "r", "--shards", "65")[2]
    code, out, _ = run_line(capsys, "scale", "r", "--actors", "4", "--shards", "5")
    assert "4 actors and 5 shards asked for" in out
    stop = run.stop
    run.stop = lambda: (stop(), folder.write_json("status.json", status("stopped")))[0]  # type: ignore[method-assign]
    code, out, _ = run_line(capsys, "stop", "r")
    assert code == 0
    assert "r: stopped; checkpoint -" in out
    assert run.calls == ["scale 3", "close", "scale 4", "add 5 ()", "close", "stop", "close"]
    assert run_line(capsys, "stop", "r")[1] == "r: stopped already\n"


def test_crowded_cores_are_warned_of(
    launched: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    launched(ScriptedRun([status("finished")]))
    crowded = "WARNING: 5 actors on 2 cores"
    assert crowded in run_line(capsys, "train", "--name", "many", "--actors", "5")[1]
    assert "WARNING: 4 actors" not in run_line(capsys, "train", "--name", "some", "--actors", "4")[1]
    saved_run("running")
    assert crowded in run_line(capsys, "scale", "r", "--actors", "5")[1]
    assert "WARNING" not in run_line(capsys, "scale", "r", "--actors", "4")[1]


def test_lockstep_runs_are_not_scaled(launched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved_run("running")
    folder.save_config(with_values(folder.load_config(), run__lockstep=True))
    launched(ScriptedRun([status("running")]))
    code, _, err = run_line(capsys, "scale", "r", "--actors", "2")
    assert code == 2
    assert "lockstep" in err
    assert "--shards, --add-urls: not while it runs" in run_line(capsys, "scale", "r", "--shards", "3")[2]


def test_evaluate_without_a_checkpoint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    saved_run()
    code, _, err = run_line(capsys, "evaluate", "r")
    assert code == 1
    assert "r has no checkpoint that is whole yet" in err


def test_plot_draws_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved_run()
    code, _, err = run_line(capsys, "plot", "r")
    assert code == 1
    assert "no episode has ended yet" in err
    folder.metrics_path.write_text('{"env_steps": 1000, "episode/return_mean_100": -20.0}\n')
    code, out, _ = run_line(capsys, "plot", "r", "--output", "curve.png")
    assert (code, out) == (0, "curve.png\n")
    assert Path("curve.png").stat().st_size > 1_000


def test_a_run_that_was_good_enough_needs_another_such_end(
    launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved_run("finished", message="--until-return 5 is reached: 5.10 in the last 100")
    calls = launched(ScriptedRun([status("finished", message="--max-hours 1 is reached")]))
    for flags in ([], ["--total-env-steps", "20000"]):
        code, _, err = run_line(capsys, "resume", "r", *flags)
        assert code == 2
        assert "the run is finished already: --until-return 5 is reached: 5.10 in the last 100; give a" in err
    assert calls == []
    code, out, _ = run_line(capsys, "resume", "r", "--until-return", "7", "--max-hours", "1")
    assert code == 0
    assert "because             --max-hours 1 is reached" in out
    run = folder.load_config().run
    assert (run.until_return, run.max_hours, run.total_env_steps) == (7.0, 1.0, 10_000)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("work/curve", "work/curve.png"),
        ("there", "there/learning_curve.png"),
        ("new/", "new/learning_curve.png"),
        ("new/deep/x.svg", "new/deep/x.svg"),
    ],
)
def test_plot_prints_the_file_that_it_writes(
    given: str, written: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_run().metrics_path.write_text('{"env_steps": 1000, "episode/return_mean_100": -20.0}\n')
    Path("there").mkdir()
    before = set(in_tmp.rglob("*"))
    assert run_line(capsys, "plot", "r", "--output", given) == (0, f"{written}\n", "")
    assert [path for path in set(in_tmp.rglob("*")) - before if path.is_file()] == [in_tmp / written]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("x.gif", "x.gif: must end in .png"),
        ("new/x.gifs", "new/x.gifs: must end in .png"),
        ("file/x.png", "file/x.png: Not a directory"),
    ],
)
def test_a_refused_output_is_one_line_and_leaves_nothing(
    given: str, why: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_run().metrics_path.write_text('{"env_steps": 1000, "episode/return_mean_100": -20.0}\n')
    Path("file").touch()
    before = set(in_tmp.rglob("*"))
    code, out, err = run_line(capsys, "plot", "r", "--output", given)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert why in err
    assert set(in_tmp.rglob("*")) == before
