"""The command line: one-line mistakes, the foreground loop with its Ctrl-C, and the look at runs."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.cli.main import COMMANDS, main
from deploy.cli.run.follow import Forced, Interrupts
from deploy.cli.run.summary import config_lines, disk_estimate, num_parameters
from deploy.fleet.errors import FleetError, WrongFlag
from deploy.fleet.ray import nodes
from deploy.run.config import Config, to_json, with_values
from deploy.run.folder import RunFolder
from deploy.run.import_path import ROOT
from deploy.run.presets import LAPTOP, PAPER_RAINBOW, PRESETS

METRICS = {
    "progress/env_steps": 6_000.0,
    "progress/updates": 125.0,
    "progress/seconds": 61.0,
    "episode/return_mean_100": -20.5,
    "episode/count": 7.0,
    "replay/samples_per_insert": 3.99,
    "replay/size": 6_000.0,
}


def status(state: str, **more: Any) -> dict[str, Any]:
    return {
        "run": "r",
        "state": state,
        "message": "",
        "time": time.time(),
        "metrics": METRICS,
        "total_env_steps": 10_000,
        "target_actors": 1,
        "actors": [],
        "notes": [],
    } | more


class ScriptedRun:
    """Answers with given statuses and notes what it was asked to do."""

    def __init__(
        self, statuses: list[dict[str, Any]], after_stop: list[dict[str, Any]] | None = None
    ) -> None:
        self._statuses = statuses
        self._after_stop = after_stop or []
        self.calls: list[str] = []
        self.on_status: Callable[[int], None] = lambda _: None
        self._asked = 0
        self.is_gone = False
        self.last: dict[str, Any] = {}

    def status(self) -> dict[str, Any]:
        self._asked += 1
        self.on_status(self._asked)
        return self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]

    def last_words(self, timeout: float, told_to_stop: bool) -> dict[str, Any]:
        self.calls.append(f"last words {told_to_stop}")
        return self.last or self._statuses[-1]

    def stop(self) -> None:
        self.calls.append("stop")
        self._statuses = self._after_stop

    def scale(self, num_actors: int) -> None:
        self.calls.append(f"scale {num_actors}")

    def add_shards(self, num_shards: int, urls: tuple[str, ...]) -> None:
        self.calls.append(f"add {num_shards} {urls}")

    def heartbeat(self) -> None:
        self.calls.append("heartbeat")

    def close(self) -> None:
        self.calls.append("close")

    def shutdown(self) -> None:
        self.calls.append("shutdown")


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deploy.cli.run.follow.PERIOD_SECONDS", 0.01)
    monkeypatch.setattr("deploy.run.preflight.ANSWER_SECONDS", 0.2)
    return tmp_path


@pytest.fixture
def launched(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[ScriptedRun], list[tuple[Config, RunFolder, bool]]]:
    def use(run: ScriptedRun) -> list[tuple[Config, RunFolder, bool]]:
        calls: list[tuple[Config, RunFolder, bool]] = []

        def launch(config: Config, folder: RunFolder, *, resume: bool) -> ScriptedRun:
            calls.append((config, folder, resume))
            return run

        monkeypatch.setattr("deploy.fleet.operations.launch", launch)
        monkeypatch.setattr("deploy.fleet.operations.connect", lambda folder: run)
        return calls

    return use


def run_line(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    try:
        code = main(argv)
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


MISTAKES = [
    (["trian"], "trian: unknown command; did you mean train?"),
    (["nonsense"], "commands are train, resume"),
    (["train", "--game", "Pnog"], "--game 'Pnog' is not an Atari game; did you mean pong?"),
    (["train", "--environment.game", "qqqq"], "--environment.game 'qqqq' is not an Atari game; allowed are"),
    (["train", "--env", "no_such_module:make"], "--env 'no_such_module:make' cannot be made"),
    (
        ["train", "--preset", "lapto"],
        "--preset lapto: unknown preset; allowed are paper-rainbow, paper-dqn, paper-dqn-nature, der",
    ),
    (["train", "--preset=none"], "--preset none: unknown preset"),
    (["train", "--preset"], "--preset : unknown preset; allowed are"),
    (["train", "--replay.shardz", "3"], "--replay.shardz: unknown flag; did you mean --replay.shards?"),
    (
        ["train", "--network.no-distributional"],
        "--network.no-distributional: unknown flag; it is --network.values scalar now",
    ),
    (["train", "--gme", "Pong"], "--gme: unknown flag; did you mean --game?"),
    (["train", "--n-step", "3"], "--n-step: unknown flag; did you mean --replay.n-step?"),
    (["train", "--replay.shards", "abc"], "--replay.shards: 'abc' is not allowed; allowed is a whole number"),
    (["train", "--replay.shards=1.5"], "--replay.shards: '1.5' is not allowed; allowed is a whole number"),
    (["train", "--shards", "abc"], "--shards: 'abc' is not allowed; allowed is a whole number"),
    (["train", "--replay.gamma", "much"], "--replay.gamma: 'much' is not allowed; allowed is a number"),
    (
        ["train", "--network.encoder", "vit"],
        "--network.encoder 'vit': must be one of impala, nature or module:callable",
    ),
    (["train", "--replay.shards"], "--replay.shards: needs a value; allowed is a whole number"),
    (["train", "Pong"], "'Pong': unexpected"),
    (["train", "--replay.prioritized", "False"], "--replay.no-prioritized turns it off"),
    (["train", "--batch-size", "6000"], "--batch-size 6000: must be at most --replay.min-size (5000)"),
    (["train", "--learner.batch_size", "0"], "--learner.batch-size 0: must be greater than 0"),
    (["train", "--lockstep"], "--actors.envs-per-actor 8: must be 1 with --lockstep"),
    (["train", "--total-env-steps", "100"], "--total-env-steps 100: must be greater than --replay.min-size"),
    (["train", "--name", "a b"], "--name 'a b': must be letters"),
    (["train", "--ray-address", "127.0.0.1:1"], "--ray-address 127.0.0.1:1: nothing answers there"),
    (["train", "--ray-address", "there"], "--ray-address there: must be host:port or auto"),
    (["train", "--replay.urls", "unix:///no.sock", "--shards", "1"], "unix:///no.sock"),
    (["train", "--replay.urls", "http://a"], "--replay.urls 'http://a': must start with redis://"),
    (["resume"], "RUN is missing"),
    (["resume", "none"], "no run 'none' under runs"),
    (["status", "none"], "no run 'none'"),
    (["status"], "RUN is missing"),
    (["stop", "none"], "no run 'none'"),
    (["scale", "none", "--actors", "2"], "no run 'none'"),
    (["scale", "none", "--actors", "many"], "--actors: 'many' is not allowed"),
    (["scale", "none", "--shards", "2.5"], "--shards: '2.5' is not allowed; allowed is a whole number"),
    (["scale", "none", "--actor", "2"], "--actor: unknown flag; did you mean --actors?"),
    (["train", "--actors", "10001"], "--actors 10001: must be 1 to 10000"),
    (["train", "redis://:secret@h"], "'redis://:***@h': unexpected"),
    (["evaluate", "none"], "no run 'none'"),
    (["evaluate", "none", "--episodes", "-1"], "--episodes -1: must be 1 or more"),
    (["plot"], "RUN is missing"),
    (["plot", "none"], "no run 'none'"),
    (["bench"], "WHAT is missing"),
    (["bench", "reply"], "allowed is one of actor, replay, learner, head, diagnostics, weights, end-to-end"),
    (["doctor", "--fast"], "--fast: unknown flag"),
]


@pytest.mark.parametrize(("argv", "part"), MISTAKES, ids=[" ".join(argv) for argv, _ in MISTAKES])
def test_a_mistake_is_one_line_on_stderr_exit_2_and_nothing_starts(
    argv: list[str], part: str, in_tmp: Path, launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = launched(ScriptedRun([status("finished")]))
    code, out, err = run_line(capsys, *argv)
    assert code == 2
    assert out == ""
    assert err.startswith("apexpert: ")
    assert err.count("\n") == 1
    assert part in err
    assert calls == []
    assert list(in_tmp.iterdir()) == []


@pytest.mark.parametrize("argv", [["--version"], ["train", "--game", "Pnog"], ["train", "--help"], ["list"]])
def test_answers_come_without_torch_and_ray(argv: list[str]) -> None:
    code = (
        "import sys\nfrom deploy.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "loaded = {'torch', 'ray', 'numba', 'matplotlib'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_line(capsys, "--version") == (0, "apexpert 0.1.0\n", "")
    code, out, _ = run_line(capsys, "--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)
    assert run_line(capsys)[0] == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_line(capsys, name, "--help")
    assert (code, err) == (0, "")
    assert f"usage: apexpert {name}" in out


def test_help_shows_the_chosen_presets_values(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run_line(capsys, "train", "--preset", "der", "--help")
    text = " ".join(out.replace("│", " ").split())
    assert "Steps of the n-step return. (default: 10)" in text
    assert "--total-env-steps INT" in text


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
    assert "env steps           6,000" in out
    assert "mean return         -20.50" in out
    assert "samples per insert  3.990" in out
    assert "time                0:01:01" in out
    assert run.calls == ["heartbeat", "heartbeat", "shutdown"]


def test_the_learning_curve_is_drawn_at_the_end(launched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = ScriptedRun([status("finished")])
    launched(run)

    def write_metrics(_: int) -> None:
        points = ({"progress/num_frames": 4e3 * n, "episode/return_mean_100": n - 21.0} for n in range(5))
        Path("runs/r/metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))

    run.on_status = write_metrics
    code, out, _ = run_line(capsys, "train", "--name", "r")
    assert code == 0
    assert str(Path("runs/r/learning_curve.png").absolute()) in out
    assert Path("runs/r/learning_curve.png").stat().st_size > 1_000


def test_ctrl_c_stops_the_run_cleanly_and_says_how_to_go_on(
    launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ScriptedRun([status("running")], after_stop=[status("stopping"), status("stopped")])
    launched(run)

    def interrupt(asked: int) -> None:
        if asked == 3:
            (Path("runs/r/checkpoints") / "update-000000125").mkdir()
            os.kill(os.getpid(), signal.SIGINT)

    run.on_status = interrupt
    code, out, err = run_line(capsys, "train", "--name", "r")
    assert (code, err) == (0, "")
    assert run.calls.count("stop") == 1
    assert run.calls[-1] == "shutdown"
    assert "runs/r/checkpoints/update-000000125" in out
    assert "apexpert resume r\n" in out


def test_a_fault_of_showing_ends_a_run_cleanly(
    launched: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ScriptedRun([status("running")], after_stop=[status("stopping"), status("stopped")])
    launched(run)
    shown = []

    def fail(_: object, status: dict[str, Any]) -> None:
        shown.append(status["state"])
        raise KeyError("metrics")

    monkeypatch.setattr("deploy.monitor.console.Console.update", fail)
    code, _, err = run_line(capsys, "train", "--name", "r")
    assert code == 1
    assert "run r is stopped: it could not be shown: KeyError: 'metrics'; resume it: apexpert resume r" in err
    assert shown == ["running"]
    assert run.calls.index("stop") < run.calls.index("shutdown") == len(run.calls) - 1


def test_what_is_left_of_a_run_that_has_ended_is_no_failure_of_it(
    launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    class Lasting(ScriptedRun):
        def shutdown(self) -> None:
            raise FleetError("Ray of this run (process 7) does not end")

    launched(Lasting([status("finished")]))
    code, _, err = run_line(capsys, "train", "--name", "r")
    assert (code, err) == (0, "WARNING: Ray of this run (process 7) does not end\n")


def test_a_resume_for_which_the_disk_has_no_room_changes_nothing(
    launched: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved_run()

    def launch(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "ray.json")

    monkeypatch.setattr("deploy.fleet.operations.launch", launch)
    assert run_line(capsys, "resume", "r", "--actors", "3")[0] == 1
    assert folder.load_config().actors == LAPTOP.actors


def test_a_stop_that_is_not_heard_is_repeated(launched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Deaf(ScriptedRun):
        def stop(self) -> None:
            super().stop()
            if self.calls.count("stop") < 3:
                raise FleetError("does not answer")
            self._statuses = [status("stopped")]

    run = Deaf([status("running")], after_stop=[status("running")])
    launched(run)
    run.on_status = lambda asked: os.kill(os.getpid(), signal.SIGINT) if asked == 2 else None
    code, out, _ = run_line(capsys, "train", "--name", "r")
    assert code == 0
    assert run.calls.count("stop") == 3
    assert out.count("stopping:") == 1


def test_a_stop_that_a_new_supervisor_has_forgotten_is_repeated(
    launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    class Forgetful(ScriptedRun):
        def stop(self) -> None:
            super().stop()
            again = self.calls.count("stop") == 2
            self._statuses = [status("stopping"), status("stopped") if again else status("running")]

    run = Forgetful([status("running")])
    launched(run)
    run.on_status = lambda asked: os.kill(os.getpid(), signal.SIGINT) if asked == 2 else None
    assert run_line(capsys, "train", "--name", "r")[0] == 0
    assert run.calls.count("stop") == 2


def test_a_run_that_is_not_heard_of_any_more_is_exit_1(
    launched: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deploy.cli.run.follow.LOST_SECONDS", 0.3)
    launched(ScriptedRun([status("running", time=1.0), status("running", time=2.0)]))
    code, _, err = run_line(capsys, "train", "--name", "r")
    assert code == 1
    assert "no sign of it for 0 s; resume it: apexpert resume r" in err


def test_a_clock_that_is_set_loses_no_run(
    launched: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The statuses' times are those of another hour, and jump; but they go on."""
    monkeypatch.setattr("deploy.cli.run.follow.LOST_SECONDS", 30.0)
    times = (5.0, 6.0, 9e9, 9e9 + 1, 7.0)
    launched(ScriptedRun([*(status("running", time=at) for at in times), status("finished")]))
    assert run_line(capsys, "train", "--name", "r")[0] == 0


def test_a_run_whose_processes_were_killed_is_exit_1_at_once(
    launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ScriptedRun([status("running")])
    run.is_gone = True
    launched(run)
    code, _, err = run_line(capsys, "train", "--name", "r")
    assert code == 1
    assert "run r: its processes were ended without a word; resume it: apexpert resume r" in err


def test_a_run_that_was_told_to_stop_as_all_processes_were_has_stopped(
    launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ScriptedRun([status("running")])

    def terminate(asked: int) -> None:
        if asked == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            run.is_gone, run.last = True, status("stopped")

    run.on_status = terminate
    launched(run)
    code, out, _ = run_line(capsys, "train", "--name", "r")
    assert (code, run.calls[-1]) == (0, "shutdown")
    assert "last words True" in run.calls
    assert "apexpert resume r" in out


def test_the_last_words_of_a_run_whose_ray_has_ended_count(
    launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever was not asked to end it hears by the exit code that it is not at its end."""
    run = ScriptedRun([status("running")])
    run.is_gone, run.last = True, status("stopped", message="Ray has ended")
    launched(run)
    code, out, err = run_line(capsys, "train", "--name", "r")
    assert code == 1
    assert "apexpert resume r" in out
    assert "run r was ended from outside: Ray has ended" in err


def test_a_run_that_nobody_can_see_any_more_is_stopped_cleanly(
    launched: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`train | head`: the pipe's reader leaves, and nobody has pressed Ctrl-C."""
    run = ScriptedRun([status("running")], after_stop=[status("stopping"), status("stopped")])
    launched(run)

    def leave(asked: int) -> None:
        if asked == 2:
            monkeypatch.setattr(sys.stdout._stream, "write", broken)  # type: ignore[union-attr]

    def broken(text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    run.on_status = leave
    monkeypatch.setattr("deploy.monitor.console.PLAIN_PERIOD_SECONDS", 0.0)
    code, _, err = run_line(capsys, "train", "--name", "r")
    assert code == 1
    assert "stop" in run.calls
    assert run.calls[-1] == "shutdown"
    assert "its output cannot be written: Broken pipe; resume it: apexpert resume r" in err


def test_a_second_ctrl_c_ends_it_at_once(launched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = ScriptedRun([status("running")], after_stop=[status("stopping")])
    launched(run)
    run.on_status = lambda asked: os.kill(os.getpid(), signal.SIGINT) if asked in (2, 5) else None
    code, out, _ = run_line(capsys, "train", "--name", "r")
    assert code == 130
    assert run.calls[-1] == "shutdown"
    assert "apexpert resume r" in out


def test_a_run_that_fails_is_exit_1_with_its_reason(
    launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    launched(ScriptedRun([status("failed", message="loss is NaN, batch saved in nan.npz")]))
    code, _, err = run_line(capsys, "train", "--name", "r")
    assert code == 1
    assert err.startswith("apexpert: run r failed: loss is NaN, batch saved in nan.npz;")
    assert err.count("\n") == 1


def test_a_wrong_value_that_only_the_fleet_finds_is_exit_2_and_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def launch(config: Config, folder: RunFolder, *, resume: bool) -> ScriptedRun:
        raise WrongFlag(f"--ray-address: no Ray answers at {config.run.ray_address}")

    monkeypatch.setattr("deploy.fleet.operations.launch", launch)
    code, _, err = run_line(capsys, "train", "--name", "r", "--ray-address", "auto")
    assert (code, err) == (2, "apexpert: --ray-address: no Ray answers at auto\n")
    assert list(Path("runs").iterdir()) == []

    folder = saved_run()
    code, _, err = run_line(capsys, "resume", "r", "--ray-address", "auto", "--actors", "3")
    assert (code, err) == (2, "apexpert: --ray-address: no Ray answers at auto\n")
    assert folder.load_config().run.ray_address == "", "a resume that did not start changes nothing"
    assert folder.load_config().actors == LAPTOP.actors


def test_on_several_ray_nodes_embedded_servers_get_an_address(
    shared_ray: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert nodes.address_for_others() is None
    real = nodes.alive_nodes
    monkeypatch.setattr(nodes, "alive_nodes", lambda: [{"NodeID": "other"}, *real()])
    assert nodes.address_for_others() == real()[0]["NodeManagerAddress"]


SMALL = """
import gymnasium, numpy
class Small(gymnasium.vector.VectorEnv):
    metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}
    single_observation_space = gymnasium.spaces.Box(0, 255, (24, 40), numpy.uint8)
    single_action_space = gymnasium.spaces.Discrete(3)
def make(num_envs):
    return Small()
"""


@pytest.mark.parametrize(("encoder", "smallest"), [("impala", 29), ("nature", 36)])
def test_frames_too_small_for_the_encoder_are_found_before_anything_starts(
    encoder: str,
    smallest: int,
    launched: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = launched(ScriptedRun([status("finished")]))
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("small_frames.py").write_text(SMALL)
    argv = ["--env", "small_frames:make", "--network.padding", "valid", "--encoder", encoder]
    code, _, err = run_line(capsys, "train", *argv)
    assert (code, err.count("\n"), calls) == (2, 1, [])
    assert err.startswith("apexpert: --env 'small_frames:make': frames are 24x40, and both")
    assert f"must be {smallest} or more with --encoder {encoder}" in err
    assert not Path("runs").exists()
    sys.modules.pop("small_frames")


def test_a_fleet_that_does_not_start_is_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def launch(config: Config, folder: RunFolder, *, resume: bool) -> ScriptedRun:
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


def saved_run(state: str = "stopped", **more: Any) -> RunFolder:
    folder = RunFolder.create(with_values(LAPTOP, run__name="r", run__total_env_steps=10_000))
    folder.write_json("status.json", status(state, **more))
    return folder


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


def test_a_broken_run_does_not_hide_the_others_from_list(capsys: pytest.CaptureFixture[str]) -> None:
    saved_run()
    Path("runs/bad").mkdir()
    Path("runs/bad/config.json").write_text("{")
    code, out, _ = run_line(capsys, "list")
    assert code == 0
    assert "broken" in out
    assert "pong" in out


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ([], "--actors, --shards or --add-urls: say what to change"),
        (["--actors", "0"], "--actors 0: must be 1 or more"),
        (["--actors", "10001"], "--actors 10001: must be at most 10000"),
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
    assert "--replay.shards 65: must be 1 to 64" in run_line(capsys, "scale", "r", "--shards", "65")[2]
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


def test_bench_prints_what_it_measured_without_passwords(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "deploy.bench.actor.run", lambda config, **_: {"speed": 2.0, "config": to_json(config)}
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
    folder.metrics_path.write_text('{"progress/num_frames": 4000, "episode/return_mean_100": -20.0}\n')
    code, out, _ = run_line(capsys, "plot", "r", "--output", "curve.png")
    assert (code, out) == (0, "curve.png\n")
    assert Path("curve.png").stat().st_size > 1_000


def test_interrupts_count_and_give_the_handlers_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.count == 1
        with pytest.raises(Forced):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_comes_to_the_process_and_to_its_group_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed terminal, `timeout`: the second must not force the end; one that comes later does."""
    now = [10.0]
    monkeypatch.setattr("deploy.cli.run.follow.time.monotonic", lambda: now[0])
    with Interrupts() as interrupts:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
        assert interrupts.count == 1
        now[0] += 5.0
        with pytest.raises(Forced):
            os.kill(os.getpid(), signal.SIGHUP)


def test_printed_configs_hide_passwords_and_fit_the_line() -> None:
    config = with_values(PAPER_RAINBOW, replay__urls=("redis://u:secret@h:1",))
    lines = config_lines(config)
    assert "secret" not in "".join(lines)
    assert all(len(line) <= 110 for line in lines)
    assert "capacity=1,000,000" in " ".join(lines)


@pytest.mark.parametrize("name", PRESETS)
def test_the_size_of_the_network_is_estimated_to_a_fifth(name: str) -> None:
    from models.q_network import build_network

    for values in ("scalar", "c51", "quantile"):
        config = with_values(PRESETS[name], network__values=values)
        network = build_network(config.network, 18, observation_shape=(4, 84, 84), seed=0)
        real = sum(parameter.numel() for parameter in network.parameters())
        assert num_parameters(config) == pytest.approx(real, rel=0.2)


def test_disk_estimates_follow_the_measured_bytes() -> None:
    replay, checkpoints = disk_estimate(PAPER_RAINBOW)
    assert replay == pytest.approx(3 * 0.68e9, rel=0.1)
    assert 0.1e9 < checkpoints < 2e9
    assert disk_estimate(with_values(PAPER_RAINBOW, replay__urls=("redis://a",)))[0] == 0


def test_a_gpu_that_is_not_there_is_one_line_and_nothing_is_started(
    capsys: pytest.CaptureFixture[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, error = run_line(capsys, "train", "--learner.device", "cuda")
    assert code == 2
    assert error.startswith("apexpert: --learner.device cuda: torch finds no GPU")
    assert list(in_tmp.iterdir()) == []


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
