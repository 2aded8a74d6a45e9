"""What `apexpert train` prints and starts, and what all commands print: no passwords, any characters."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.cli.main import main
from deploy.cli.run.summary import config_lines, disk_estimate, frame_shape, num_parameters, replay_bytes
from deploy.fleet.errors import FleetError
from deploy.run.config import Config, to_json, with_values
from deploy.run.folder import RunFolder
from deploy.run.import_path import ROOT
from deploy.run.presets import LAPTOP, PAPER_RAINBOW, PRESETS
from replay.types import stacked_shape
from tests.helpers.runs.scripted_run import ScriptedRun, run_line, status


def test_train_prints_its_config_runs_and_sums_up(
    in_tmp: Path, launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ScriptedRun([status("starting", metrics={}), status("running"), status("finished")])
    calls = launched(run)
    argv = ["train", "--game", "MsPacman", "--name", "r", "--shards", "3", "--total_env_steps", "10000"]
    code, out, err = run_line(capsys, *argv, "--replay.no-prioritized", "--learner.double")
    assert (code, err) == (0, "")
    config, folder, resume = calls[0]
    assert config == with_values(
        LAPTOP,
        run__name="r",
        run__total_env_steps=10_000,
        environment__game="ms_pacman",
        replay__shards=3,
        replay__prioritized=False,
        learner__double=True,
    )
    assert folder.path == in_tmp / "runs" / "r"
    assert not resume
    assert folder.load_config() == config
    assert "segment_steps=32" in out
    assert "earns 4 updates" in out
    assert "disk: up to" in out
    assert "starting the run's supervisor and its Ray ..." in out
    assert "env steps           6,000" in out
    assert "mean return         -20.50" in out
    assert "samples per insert  3.990" in out
    assert "time                0:01:01" in out
    assert run.calls == ["heartbeat", "heartbeat", "shutdown"]


def test_the_learning_curve_is_drawn_at_the_end(launched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = ScriptedRun([status("finished")])
    launched(run)

    def write_metrics(_: int) -> None:
        points = ({"env_steps": 1e3 * n, "episode/return_mean_100": n - 21.0} for n in range(5))
        Path("runs/r/metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))

    run.on_status = write_metrics
    code, out, _ = run_line(capsys, "train", "--name", "r")
    assert code == 0
    assert str(Path("runs/r/learning_curve.png").absolute()) in out
    assert Path("runs/r/learning_curve.png").stat().st_size > 1_000


def test_a_fleet_that_does_not_start_is_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def launch(config: Config, folder: RunFolder, *, resume: bool, **_: object) -> ScriptedRun:
        raise FleetError("Ray did not start: no memory")

    monkeypatch.setattr("deploy.fleet.operations.launch", launch)
    code, _, err = run_line(capsys, "train", "--name", "r")
    assert code == 1
    assert err.startswith("apexpert: run r: Ray did not start: no memory; see ")


def test_detached_runs_are_left_alone(launched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = ScriptedRun([status("starting")])
    launched(run)
    code, out, _ = run_line(capsys, "train", "--name", "r", "--detach")
    assert code == 0
    assert run.calls == ["close"]
    assert "apexpert status r --follow" in out
    assert "apexpert stop r" in out


def test_runs_elsewhere_are_named_by_path(
    tmp_path: Path, launched: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launched(ScriptedRun([status("stopped")]))
    elsewhere = tmp_path / "other place"
    _, out, _ = run_line(capsys, "train", "--name", "r", "--runs-dir", str(elsewhere))
    assert f"apexpert resume '{elsewhere}/r'" in out
    folder = RunFolder.open("r", elsewhere)
    folder.write_json("status.json", status("running"))
    launched(ScriptedRun([], after_stop=[status("stopped")]))
    monkeypatch.setattr("deploy.fleet.operations._wait_for_end", lambda folder: status("stopped"))
    for command in (["stop", "r"], ["scale", "r", "--actors", "2"]):
        _, out, _ = run_line(capsys, *command, "--runs-dir", str(elsewhere))
        assert f" '{elsewhere}/r'" in out, "without --runs-dir the name alone would not be found"


def test_bench_prints_what_it_measured_without_passwords(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "deploy.bench.actor.run",
        lambda config, **_: {"benchmark": "actor", "speed": 2.0, "config": to_json(config)},
    )
    argv = ["bench", "actor", "--replay.urls", "redis://:secret@h:1", "--replay.min-size", "777"]
    code, out, _ = run_line(capsys, *argv)
    assert code == 0
    assert "min_size=777" in out
    assert "urls=redis://:***@h:1" in out
    assert "speed" in out
    _, text, _ = run_line(capsys, *argv, "--json")
    assert json.loads(text)["config"]["replay"]["urls"] == ["redis://:***@h:1"]
    assert "secret" not in out + text


def test_redis_urls_come_from_the_environment_unless_they_are_given(
    launched: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = launched(ScriptedRun([status("finished")]))
    monkeypatch.setattr("deploy.run.preflight.check_urls", lambda urls, **_: None)
    monkeypatch.setenv("APEXPERT_REDIS_URLS", "redis://:one@a:1  redis://:two@b:1")
    out = run_line(capsys, "train", "--name", "a")[1]
    assert calls[0][0].replay.urls == ("redis://:one@a:1", "redis://:two@b:1")
    assert "note: other users" not in out
    out += run_line(capsys, "train", "--name", "b", "--replay.urls", "redis://:three@c:1")[1]
    assert calls[1][0].replay.urls == ("redis://:three@c:1",)
    assert "note: other users of this machine see a password in arguments" in out
    assert not any(password in out for password in ("one@", "two@", "three@"))
    monkeypatch.setenv("APEXPERT_REDIS_URLS", "http://h")
    assert "--replay.urls 'http://h': must start" in run_line(capsys, "train", "--name", "c")[2]


@pytest.mark.parametrize("columns", ["40", "80", "110", "200"])
def test_printed_configs_hide_passwords_and_fit_the_terminal(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    servers = tuple(f"redis://u:secret@h:{port}" for port in range(4))
    config = with_values(PAPER_RAINBOW, replay__urls=servers)
    lines = config_lines(config)
    assert "secret" not in "".join(lines)
    # A setting that is longer than a line has it for itself.
    too_long = [line for line in lines if len(line) > min(int(columns), 110)]
    assert all(len(line.split()) == 1 for line in too_long)
    assert not too_long or columns == "40"
    assert "capacity=1,000,000" in " ".join(lines).split()
    assert "preset=paper-rainbow" in " ".join(lines).split()
    assert "until_return=-" in " ".join(lines).split()
    assert "max_hours=-" in " ".join(lines).split()
    chosen = config_lines(with_values(config, run__until_return=18.0, run__max_hours=2.5))
    assert {"until_return=18", "max_hours=2.5"} <= set(" ".join(chosen).split())


def test_a_run_is_announced_within_the_terminal(
    launched: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    launched(ScriptedRun([status("finished")]))
    _, out, _ = run_line(capsys, "train", "--name", "r", "--detach", "--actors", "99")
    announced = [line for line in out.splitlines() if "runs/r" not in line and "detached" not in line]
    assert max(map(len, announced)) <= 80
    assert "WARNING: 99 actors" in out


@pytest.mark.parametrize("name", PRESETS)
def test_the_size_of_the_network_is_estimated_to_a_fifth(name: str) -> None:
    from models.q_network import build_network

    for values in ("scalar", "c51", "quantile"):
        config = with_values(PRESETS[name], network__values=values)
        shape = stacked_shape(frame_shape(config), config.environment.stack)
        network = build_network(config.network, 18, observation_shape=shape, seed=0)
        real = sum(parameter.numel() for parameter in network.parameters())
        assert num_parameters(config) == pytest.approx(real, rel=0.2)


def test_disk_estimates_follow_the_measured_bytes() -> None:
    replay, checkpoints = disk_estimate(PAPER_RAINBOW)
    assert replay == pytest.approx(3 * 0.68e9, rel=0.1)
    assert 0.1e9 < checkpoints < 2e9
    assert disk_estimate(with_values(PAPER_RAINBOW, replay__urls=("redis://a",)))[0] == 0


@pytest.mark.skipif(
    importlib.util.find_spec("minatar") is None, reason="MinAtar is missing: pip install minatar"
)
def test_estimates_go_by_the_frames_of_the_environment() -> None:
    """4 planes of 10 x 10, not 84 x 84: an actor with Breakout's short games wrote 70 bytes a step."""
    config = PRESETS["minatar-dqn"]
    assert frame_shape(config) == (4, 10, 10)
    assert frame_shape(PAPER_RAINBOW) == (84, 84)
    assert 70 * 100_000 <= replay_bytes(config) < 30e6


def test_what_a_terminal_cannot_show_is_shown_all_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.cli.main", "list", "--runs-dir", "é[b]\udcff"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": ROOT}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "no runs under \\xe9[b]\\udcff\n"


def test_names_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder.create(with_values(LAPTOP, run__runs_dir=str(tmp_path), run__name="r"))
    (tmp_path / "r").rename(tmp_path / "r[b]")
    assert main(["list", "--runs-dir", str(tmp_path)]) == 0
    assert "r[b]" in capsys.readouterr().out
