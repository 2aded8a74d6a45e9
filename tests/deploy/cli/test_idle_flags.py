"""Flags that do nothing are told of, or refused where the preset's own value would give way to them."""

from pathlib import Path
from typing import Any

import pytest

from apexpert import ApexpertError, preset
from deploy.cli.run.idle_flags import USED_WITH, given_fields, idle
from deploy.cli.run.train import TrainArguments, config_of, parse_config
from deploy.run.config import Config, leaves, with_values
from deploy.run.presets import LAPTOP, PAPER_RAINBOW
from tests.helpers.runs.scripted_run import ScriptedRun, run_line, status


def asked(*argv: str) -> Config:
    return config_of(parse_config(TrainArguments, argv, command="train", default=lambda: LAPTOP))


IDLE = [
    (["--network.num-atoms", "51"], "--network.num-atoms does nothing with --network.values quantile"),
    (
        ["--network.values", "scalar", "--network.v-max", "3"],
        "--network.v-max does nothing with --network.values scalar",
    ),
    (
        ["--network.values=c51", "--network.num_quantiles=7"],
        "--network.num-quantiles does nothing with --network.values c51",
    ),
    (["--head", "pooled", "--experts", "8"], "--experts does nothing with --head pooled"),
    (
        ["--head", "dense", "--experts", "8"],
        "--experts does nothing with --head dense without --network.scale-dense",
    ),
    (["--network.dense-hidden-units", "9"], "--network.dense-hidden-units does nothing with --network.head"),
    (["--network.patch-width", "9"], "--network.patch-width does nothing with --network.tokens per_sample"),
    (["--network.noise-per", "row"], "--network.noise-per does nothing with --network.no-noisy"),
    (
        ["--replay.no-prioritized", "--learner.priority", "loss"],
        "--learner.priority does nothing with --replay.no-prioritized",
    ),
    (
        ["--exploration.ladder-base", "0.3"],
        "--exploration.ladder-base does nothing with --exploration.kind linear",
    ),
    (
        ["--env", "tests.helpers.catch:make", "--game", "Pong"],
        "--game does nothing with --env tests.helpers.catch:make",
    ),
]


@pytest.mark.parametrize(("argv", "line"), IDLE, ids=[line for _, line in IDLE])
def test_a_flag_that_does_nothing_is_told_of_in_one_line(
    argv: list[str], line: str, launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    launched(ScriptedRun([status("finished")]))
    code, _, err = run_line(capsys, "train", *argv)
    assert code == 0
    assert err.startswith(f"note: {line}")
    assert err.count("\n") == 1


def test_the_password_of_a_url_is_not_printed() -> None:
    config = with_values(LAPTOP, replay__urls=("redis://:secret@h",))
    assert idle(config, {"replay.append_fsync"}) == {"replay.append_fsync": "--replay.urls"}


def test_what_a_preset_sets_and_what_counts_is_not_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--head", "dense", "--experts", "8", "--network.scale-dense", "--network.dense-hidden-units", "9"]
    assert idle(asked(*argv), given_fields(argv)) == {}
    own = ["--head", "some.module:head", "--experts", "8", "--network.dense-hidden-units", "9"]
    assert idle(asked(*own), given_fields(own)) == {}
    assert run_line(capsys, "model", "--json")[2] == ""


def test_every_field_of_the_table_is_one() -> None:
    known = leaves(LAPTOP)
    assert {path for decisive, _, paths in USED_WITH for path in (decisive, *paths)} <= set(known)


def test_flags_are_found_in_every_form() -> None:
    argv = ["--no-lockstep", "--replay.no-prioritized", "--learner.batch_size=3", "--game", "Pong"]
    found = {"run.lockstep", "replay.prioritized", "learner.batch_size", "environment.game"}
    assert given_fields([*argv, "--json"]) == found


REFUSED = [
    (
        ["--preset", "paper-dqn", "--network.values", "quantile", "--learner.loss", "squared"],
        "--learner.loss 'squared': is for --network.values scalar alone",
    ),
    (["--head", "dense", "--network.residual"], "--network.residual True: does nothing with --head dense"),
]


@pytest.mark.parametrize(("argv", "line"), REFUSED)
def test_the_presets_own_value_that_is_asked_for_is_refused_as_any_other(
    argv: list[str], line: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_line(capsys, "train", *argv)
    assert (code, out) == (2, "")
    assert err.startswith(f"apexpert: {line}")
    Path("run.toml").write_text('[network]\nhead = "dense"\nresidual = true\n')
    *_, err = run_line(capsys, "train", "--config", "run.toml")
    assert "--network.residual True: does nothing with --network.head dense" in err


def test_python_refuses_what_it_is_asked_for_as_well() -> None:
    with pytest.raises(
        ApexpertError, match=r"--network.residual True: does nothing with --network.head dense"
    ):
        preset("laptop", head="dense", residual=True)


def test_an_epsilon_that_is_asked_for_stays(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--preset", "paper-rainbow", "--network.no-noisy", "--exploration.epsilon-start", "0"]
    config = asked(*argv)
    assert (config.exploration.epsilon_start, config.exploration.epsilon_end) == (0.0, 0.01)
    Path("run.toml").write_text(run_line(capsys, "train", *argv, "--print-config")[1])
    assert asked("--config", "run.toml") == config, "also when it comes from a printed configuration"
    changed = preset("paper-rainbow", noisy=False, epsilon_start=0.0)
    assert changed.exploration == config.exploration
    assert PAPER_RAINBOW.exploration.epsilon_end == 0.0
