"""A run from Python, on a Ray of its own: started, scaled, stopped, resumed; and one only looked at."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import apexpert
from apexpert import ApexpertError
from deploy.fleet.errors import FleetError
from deploy.run.config import ConfigError
from deploy.run.errors import RunError, RunNotFound
from deploy.run.folder import RunFolder
from tests.helpers.deadline import patient, until
from tests.helpers.root import ROOT
from tests.helpers.runs.catch_runs import catch_config
from tests.helpers.runs.commands import SHORT, Trained


def started(tmp_path: Path, **changes: Any) -> apexpert.Run:
    return apexpert.train(catch_config(tmp_path), name="r", **changes)


def test_a_run_from_its_start_to_its_end(tmp_path: Path) -> None:
    with started(tmp_path, total_env_steps=100_000) as run:
        assert (run.name, run.path) == ("r", tmp_path / "r")
        assert run.config.run.total_env_steps == 100_000
        until(lambda: run.metrics().get("progress/updates", 0) > 20, "its learning", 90)
        with pytest.raises(ApexpertError, match="--actors 0: must be 1 to 10000"):
            run.scale(0)
        run.scale(2)
        until(lambda: run.status()["target_actors"] == 2, "two actors", 30)
        seen = apexpert.open_run("r", runs_dir=str(tmp_path))
        assert seen.status()["state"] == "running"
        with pytest.raises(TimeoutError):
            seen.wait(0.3)
        assert "running" in repr(seen)
    # `with` has ended it, as this process started it.
    assert run.status()["state"] == "stopped"
    rows = run.history()
    assert rows[-1]["progress/env_steps"] > rows[0]["progress/env_steps"]
    done = int(run.metrics()["progress/env_steps"])
    seen.resume(done + 300)
    shown: list[str] = []
    with seen:
        last = seen.wait(patient(90), show=lambda status: shown.append(status["state"]))
    assert last["state"] == "finished"
    assert len(shown) > 1, "its start, however short it is at work"
    assert shown[-1] == "finished"
    assert seen.stop()["state"] == "finished", "one that has ended is left alone"
    with pytest.raises(ApexpertError, match="the run is finished already; give a larger number"):
        seen.resume(done)


@pytest.mark.faults_long
def test_a_run_is_left_as_it_is_by_who_only_opened_it(tmp_path: Path) -> None:
    run = started(tmp_path, total_env_steps=100_000)
    with apexpert.open_run("r", runs_dir=str(tmp_path)) as seen:
        until(lambda: seen.status()["state"] == "running", "its start", 60)
    assert run.status()["state"] == "running"
    assert seen.stop()["state"] == "stopped"
    assert run.wait(patient(60))["state"] == "stopped"


def test_a_failed_and_a_lost_run_say_why(tmp_path: Path) -> None:
    folder = RunFolder.create(catch_config(tmp_path, run__name="r"))
    run = apexpert.open_run(str(folder.path))
    with pytest.raises(RunError, match="run r is not started"):
        run.wait()
    folder.write_json("status.json", {"state": "failed", "message": "no GPU", "metrics": {}, "time": 0.0})
    with pytest.raises(FleetError, match=r"run r failed: no GPU; see .*log\.txt") as caught:
        run.wait()
    assert caught.value.path == folder.log_path
    folder.write_json("status.json", {"state": "running", "message": "", "metrics": {}, "time": 0.0})
    with pytest.raises(RunError, match=r"run r is lost: .*apexpert resume"):
        run.wait()


def test_mistakes_start_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for changes, part in (
        ({"game": "Pnog"}, "--environment.game 'Pnog' is not an Atari game; did you mean pong"),
        ({"gmae": "Pong"}, "gmae: no such field"),
        ({"ray_address": "localhost:1"}, "--ray-address localhost:1: nothing answers there"),
    ):
        with pytest.raises(ApexpertError) as caught:
            apexpert.train("laptop", **changes)
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RunNotFound):
        apexpert.open_run("nobody")


def test_what_a_users_module_prints_is_not_taken_for_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("noisy.py").write_text('print(\'{"folder": "/"}\')\n')
    with pytest.raises(ConfigError, match=r"--environment\.env 'noisy:make' cannot be made"):
        apexpert.train(catch_config(tmp_path), env="noisy:make")


@pytest.mark.faults_long
def test_a_run_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import sys, time, apexpert\n"
        "from pathlib import Path\n"
        "from tests.helpers.runs.catch_runs import catch_config\n"
        "run = apexpert.train(catch_config(Path(sys.argv[1])), name='r')\n"
        "print(run.name, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"r\n"
        run = apexpert.open_run("r", runs_dir=str(tmp_path))
        until(lambda: run.metrics().get("progress/updates", 0) > 5, "its learning", 90)
        process.kill()
    status = until(lambda: (s := run.status())["state"] == "stopped" and s, "its end", 60)
    assert status["metrics"]["progress/env_steps"] > 0
    assert list((tmp_path / "r" / "checkpoints").glob("update-*")), "with a checkpoint"


@pytest.mark.faults_long
def test_a_run_whose_owner_is_killed_is_told(tmp_path: Path) -> None:
    run = started(tmp_path, total_env_steps=100_000)
    assert run._owner is not None
    run._owner._process.kill()
    with pytest.raises(FleetError, match="run r: its owner has ended, and it is"):
        run.wait(patient(60))
    seen = apexpert.open_run(str(run.path))
    until(lambda: seen.status()["state"] == "stopped", "its end, as its command is gone", 60)


def test_a_finished_run_is_read_and_not_changed(trained: Trained, tmp_path: Path) -> None:
    terminal = trained.terminal.copy(tmp_path)
    with apexpert.open_run(str(terminal.folder.path)) as run:
        assert run.status() == terminal.status()
        assert run.metrics()["progress/env_steps"] >= SHORT["run"]["total_env_steps"]
        assert run.wait()["state"] == "finished"
        with pytest.raises(RunError, match="r is not running: finished") as caught:
            run.scale(2)
        assert caught.value.path == run.path
        with pytest.raises(ConfigError, match="--actors 0: must be 1 to 10000") as caught_flag:
            run.scale(0)
        assert caught_flag.value.flag == "--actors"


def test_an_error_of_a_start_names_the_file(tmp_path: Path) -> None:
    folder = RunFolder.create(catch_config(tmp_path, run__name="r"))
    folder.config_path.write_text("{")
    run = apexpert.open_run(str(folder.path))
    with pytest.raises(RunError, match=r"config\.json: ") as caught:
        run.resume()
    assert caught.value.path == folder.config_path
