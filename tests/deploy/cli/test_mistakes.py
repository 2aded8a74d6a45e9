"""One-line mistakes of the command line, found before anything starts, and its help."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.cli.bench import WHAT
from deploy.cli.errors import UsageError
from deploy.cli.main import COMMANDS
from deploy.cli.parsing import RENAMED, SHORT_FLAGS, flags_of, parse
from deploy.cli.replay.replay import ACTIONS
from deploy.fleet.errors import WrongFlag
from deploy.run.config import Config
from deploy.run.folder import RunFolder
from deploy.run.presets import LAPTOP
from tests.helpers.runs.scripted_run import ScriptedRun, run_line, saved_run, status

MISTAKES = [
    (["trian"], "trian: unknown command; did you mean train?"),
    (["nonsense"], "commands are train, submit, resume"),
    (["train", "--game", "Pnog"], "--game 'Pnog' is not an Atari game; did you mean pong?"),
    (["train", "--environment.game", "qqqq"], "--environment.game 'qqqq' is not an Atari game; allowed are"),
    (["train", "--env", "no_such_module:make"], "--env 'no_such_module:make' cannot be made"),
    (
        ["train", "--preset", "lapto"],
        "--preset lapto: unknown preset; allowed are paper-rainbow, paper-dqn, paper-dqn-nature, der",
    ),
    (["train", "--help", "replya"], "--help replya: no such section; did you mean replay?"),
    (["train", "--preset=none"], "--preset none: unknown preset"),
    (["train", "--preset"], "--preset: needs a value; allowed are paper-rainbow"),
    (["model", "--preset", "--json"], "--preset: needs a value"),
    (["train", "--replay.shardz", "3"], "--replay.shardz: unknown flag; did you mean --replay.shards?"),
    (
        ["train", "--network.no-distributional"],
        "--network.no-distributional: unknown flag; it is --network.values scalar now",
    ),
    (["train", "--gme", "Pong"], "--gme: unknown flag; did you mean --environment.game?"),
    (["train", "--n-step", "3"], "--n-step: unknown flag; did you mean --replay.n-step?"),
    (["train", "--replay.shards", "abc"], "--replay.shards: 'abc' is not allowed; allowed is a whole number"),
    (["train", "--replay.shards=1.5"], "--replay.shards: '1.5' is not allowed; allowed is a whole number"),
    (["train", "--shards", "abc"], "--shards: 'abc' is not allowed; allowed is a whole number"),
    (["train", "--replay.gamma", "much"], "--replay.gamma: 'much' is not allowed; allowed is a number"),
    (
        ["train", "--network.encoder", "vit"],
        "--network.encoder 'vit': must be one of impala, nature, minatar or module:callable",
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
    (["train", "--ray-address", "h:x"], "--ray-address h:x: must be host:port or auto"),
    (["train", "--replay.urls"], "--replay.urls: needs a value"),
    (
        ["train", "--replay.urls", "redis://:p@h:1/main"],
        "'redis://:***@h:1/main': must end in a database's number",
    ),
    (["train", "--detach=yes"], "--detach: takes no value ('yes'); --no-detach turns it off"),
    (["train", "--replay.prioritized=0"], "--replay.no-prioritized turns it off"),
    (["train", "--", "--game", "Pong"], "--game: a flag, but -- before it ends them"),
    (["resume"], "RUN is missing"),
    (["resume", "none"], "no run 'none' under runs"),
    (["status", "none"], "no run 'none'"),
    (["status"], "RUN is missing"),
    (["stop", "none"], "no run 'none'"),
    (["scale", "none", "--actors", "2"], "no run 'none'"),
    (["scale", "none", "--shards", "many"], "--shards: 'many' is not allowed"),
    (["scale", "none", "--shards", "2.5"], "--shards: '2.5' is not allowed; allowed is a whole number"),
    (["scale", "none", "--actor", "2"], "--actor: unknown flag; did you mean --actors?"),
    (["train", "--actors", "10001"], "--actors 10001: must be 1 to 10000"),
    (["train", "--actors", "many"], "--actors 'many': must be 1 to 10000"),
    (["train", "--actors", "auto:9-8"], "--actors 'auto:9-8': must be 1 to 10000"),
    (["train", "redis://:secret@h"], "'redis://:***@h': unexpected"),
    (["evaluate", "none"], "no run 'none'"),
    (["evaluate", "none", "--episodes", "-1"], "--episodes -1: must be 1 or more"),
    (["evaluate", "none", "--seed", "-1"], "--seed -1: must be 0 to 2**63 - 1"),
    (["show", "none", "--seed", "-1"], "--seed -1: must be 0 to 2**63 - 1"),
    (["play", "none", "--seed", "-1"], "--seed -1: must be 0 to 2**63 - 1"),
    (["replay", "none", "--frames", "x.png", "--seed", "-1"], "--seed -1: must be 0 to 2**63 - 1"),
    (["plot"], "RUN is missing"),
    (["plot", "none"], "no run 'none'"),
    (["bench"], "WHAT is missing"),
    (["bench", "reply"], "allowed is one of actor, replay, learner, head, diagnostics, weights, end-to-end"),
    (["bench", "head", "--head", "dense"], "--head dense: must be one of soft_moe, top_k_moe"),
    (["doctor", "--fast"], "--fast: unknown flag"),
    (["list", "--tracebak"], "--tracebak: unknown flag; did you mean --traceback?"),
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


HINTED = [*SHORT_FLAGS, *RENAMED, *(f"{flag}x" for flag in SHORT_FLAGS), "--n-step", "--runs_dirs", "--jsn"]


@pytest.mark.parametrize("name", COMMANDS)
def test_hints_name_flags_of_the_command_by_their_full_names(name: str) -> None:
    command = COMMANDS[name]
    module, function = importlib.import_module(command.module), command.function.removesuffix("_runs")
    kind = getattr(module, f"{function.capitalize()}Arguments")
    flags = flags_of(kind)
    for typed in set(HINTED) - set(flags):
        with pytest.raises(UsageError) as caught:
            parse(kind, [typed], command=name)
        hint = str(caught.value).partition("(all flags")[0].removeprefix(f"{typed.replace('_', '-')}: ")
        assert set(re.findall(r"--[\w.-]*\w", hint)) <= {*flags, "--traceback"}, hint


def test_the_main_help_says_what_commands_can_do() -> None:
    text = {name: command.summary for name, command in COMMANDS.items()}
    assert all(what in text["bench"] for what in WHAT)
    assert "actors" in text["scale"]
    assert "shards" in text["scale"]
    assert all(f"--{action.rstrip('_')}" in text["replay"] for action in ACTIONS)


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
    for words in (["--help", "all"], ["--help", "replay"]):
        code, out, _ = run_line(capsys, "train", "--preset", "der", *words)
        text = " ".join(out.replace("│", " ").split())
        assert code == 0
        assert "Steps of the n-step return. (default: 10)" in text
        assert ("--total-env-steps INT" in text) == (words[1] == "all")


@pytest.mark.parametrize("command", ["train", "bench learner", "model"])
def test_help_without_a_section_is_short_and_names_them(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run_line(capsys, *command.split(), "--help")
    assert code == 0
    assert "--total-env-steps INT" in out
    assert "--replay.n-step" not in out
    assert f"apexpert {command.split()[0]} --help SECTION, of environment, network" in " ".join(out.split())


def test_a_wrong_value_that_only_the_fleet_finds_is_exit_2_and_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def launch(config: Config, folder: RunFolder, *, resume: bool, **_: object) -> ScriptedRun:
        raise WrongFlag(f"--ray-address: no Ray answers at {config.run.ray_address}")

    monkeypatch.setattr("deploy.fleet.operations.launch", launch)
    code, _, err = run_line(capsys, "train", "--name", "r", "--ray-address", "auto")
    assert (code, err) == (2, "apexpert: --ray-address: no Ray answers at auto\n")
    assert not Path("runs").exists()

    folder = saved_run()
    code, _, err = run_line(capsys, "resume", "r", "--ray-address", "auto", "--actors", "3")
    assert (code, err) == (2, "apexpert: --ray-address: no Ray answers at auto\n")
    assert folder.load_config().run.ray_address == "", "a resume that did not start changes nothing"
    assert folder.load_config().actors == LAPTOP.actors


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


USERS = {
    "raising": "def make(*arguments):\n    raise RuntimeError('no\\ndisplay')\n",
    "unfinished": "import os\n\ndef make(",
    "script": "import sys\nsys.exit(3)\n",
}
SAID = {
    "raising": "RuntimeError: no display ({file}, line 2)",
    "unfinished": "SyntaxError: '(' was never closed ({file}, line 3)",
    "script": "SystemExit: 3 ({file}, line 2)",
}


@pytest.mark.parametrize("name", USERS)
@pytest.mark.parametrize("flag", ["--env", "--encoder", "--head"])
def test_an_error_of_the_users_code_is_one_line_with_its_file_and_line(
    flag: str, name: str, in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(in_tmp)])
    module = f"users_{name}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    file = in_tmp / f"{module}.py"
    file.write_text(USERS[name])
    code, out, err = run_line(capsys, "train", flag, f"{module}:make")
    said = SAID[name].format(file=file)
    assert (code, out, err) == (2, "", f"apexpert: {flag} '{module}:make' cannot be made: {said}\n")
    code, out, err = run_line(capsys, "train", "--traceback", flag, f"{module}:make")
    *trace, line = err.splitlines()
    assert (code, out, line) == (2, "", f"apexpert: {flag} '{module}:make' cannot be made: {said}")
    assert any(f'File "{file}", line {said[-2]}' in text for text in trace)


def test_a_fault_of_any_command_is_one_line_and_its_traceback_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: object) -> int:
        raise ZeroDivisionError("redis://u:secret@h")

    for name, command in COMMANDS.items():
        monkeypatch.setattr(f"{command.module}.{command.function}", fail)
        code, _, err = run_line(capsys, name)
        assert (code, err.count("\n")) == (1, 1)
        place = f"({__file__}, line {fail.__code__.co_firstlineno + 1})"
        assert f"{name}: ZeroDivisionError: redis://u:***@h {place}; --traceback shows all of it" in err
        code, _, err = run_line(capsys, "--traceback", name)
        assert (code, err.startswith("Traceback")) == (1, True), "before the command as behind it"
        code, _, err = run_line(capsys, name, "--traceback")
        assert code == 1
        assert err.startswith("Traceback")
        assert "secret" not in err.replace('redis://u:secret@h")', "")


def test_a_gpu_that_is_not_there_is_one_line_and_nothing_is_started(
    capsys: pytest.CaptureFixture[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, error = run_line(capsys, "train", "--learner.device", "cuda")
    assert code == 2
    assert error.startswith("apexpert: --learner.device cuda: torch finds no GPU")
    assert list(in_tmp.iterdir()) == []
