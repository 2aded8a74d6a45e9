"""A configuration as a file: printed, read again, laid under flags, or taken from another run."""

from pathlib import Path
from typing import Any

import pytest

from deploy.cli.main import main
from deploy.cli.run.config_file import ConfigFile, to_toml
from deploy.cli.run.train import TrainArguments, config_of, parse_config
from deploy.run.config import Config, with_values
from deploy.run.folder import RunFolder
from deploy.run.presets import APEX, DER, LAPTOP, PRESETS
from tests.helpers.runs.scripted_run import saved_run


def asked(*argv: str) -> Config:
    """The configuration that `apexpert train ARGV` asks for."""
    return config_of(parse_config(TrainArguments, argv, command="train", default=lambda: LAPTOP))


def written(text: str) -> str:
    Path("run.toml").write_text(text)
    return "run.toml"


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["train", *argv, "--print-config"])
    return capsys.readouterr().out


@pytest.mark.parametrize("preset", PRESETS)
def test_a_printed_configuration_asks_for_the_same_run(
    preset: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--preset", preset, "--seed", "7", "--replay.urls", "redis://a", "redis://b"]
    flags += [] if PRESETS[preset].environment.env else ["--game", "Boxing"]
    file = written(printed(capsys, *flags))
    assert asked("--config", file) == asked(*flags)
    assert printed(capsys, "--config", file) == Path(file).read_text()


def test_flags_replace_a_file_that_replaces_its_preset(in_tmp: Path) -> None:
    file = written('[run]\npreset = "der"\nseed = 3\n[replay]\nn_step = 4\ngamma = 1\n')
    expected = with_values(DER, run__seed=5, replay__n_step=4, replay__gamma=1.0)
    assert asked("--config", file, "--seed", "5") == expected


def test_a_file_without_a_preset_is_laid_over_the_one_that_is_asked_for(in_tmp: Path) -> None:
    file = written("[replay]\nn_step = 4\n")
    assert asked("--config", file) == with_values(LAPTOP, replay__n_step=4)
    assert asked("--config", file, "--preset", "apex") == with_values(APEX, replay__n_step=4)


def test_a_file_may_use_names_of_before(in_tmp: Path) -> None:
    file = ConfigFile.read(Path(written("[network]\ndistributional = true\n")))
    assert file.over(LAPTOP).network.values == "c51"


def test_another_run_is_a_base_without_its_name(in_tmp: Path) -> None:
    config = with_values(DER, run__name="r", run__seed=4, run__detach=True, replay__n_step=7)
    RunFolder.create(config)
    assert asked("--like", "r") == with_values(config, run__name="", run__detach=False)
    assert asked("--like", "runs/r", "--seed", "5", "--network.head", "dense").run.seed == 5
    file = written("[replay]\nn_step = 9\n")
    assert asked("--like", "r", "--config", file).replay.n_step == 9


def test_passwords_in_a_file_of_urls_are_not_printed(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("urls").write_text("redis://:secret@a:6379\n")
    out = printed(capsys, "--replay.urls", "@urls")
    assert "secret" not in out
    assert asked("--config", written(out)).replay.urls == ("redis://:secret@a:6379",)


@pytest.mark.parametrize("command", ["bench learner", "model"])
def test_other_commands_with_a_configuration_take_a_file_too(
    command: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written('[environment]\ngame = "krull"\n')
    with pytest.raises(SystemExit, match=r"^0$"):
        main([*command.split(), "--config", file, "--print-config"])
    assert 'game = "krull"' in capsys.readouterr().out


MISTAKES = [
    ("", ["--config", "none.toml"], "--config none.toml: No such file or directory"),
    ("", ["--config", "."], "--config .: Is a directory"),
    ("", ["--config"], "--config: needs a value"),
    ("[replay\n", ["--config", "run.toml"], "--config run.toml: Expected ']' at the end of a table"),
    ("\udcff", ["--config", "run.toml"], "--config run.toml: 'utf-8' codec can't decode byte 0xff"),
    ("n_step = 3", ["--config", "run.toml"], "--config run.toml: unknown field 'n_step'; known are run, env"),
    ("replay = 3", ["--config", "run.toml"], "--config run.toml: replay: expected named fields, found 3"),
    ("[replay]\nn_stepp = 3", ["--config", "run.toml"], "run.toml: replay: unknown field 'n_stepp'"),
    (
        '[replay]\nn_step = "3"',
        ["--config", "run.toml"],
        "replay.n_step (--replay.n-step) is '3'; allowed",
    ),
    ("[replay]\nn_step = 0", ["--config", "run.toml"], "--replay.n-step 0: must be 1 to 255"),
    ('[run]\npreset = "none"', ["--config", "run.toml"], "--preset none: unknown preset"),
    ('[run]\npreset = "der"', ["--config", "run.toml", "--preset", "apex"], "run.toml has the preset der"),
    (
        '[run]\npreset = "der"',
        ["--like", "r", "--config", "run.toml"],
        "--like r: run.toml has the preset der",
    ),
    ("", ["--config="], "--config: needs a value; name a TOML file"),
    ("", ["--like="], "--like: needs a value; name a run"),
    ("", ["--like", "none"], "--like: no run 'none' under runs"),
    ("", ["--like", "r", "--preset", "apex"], "--preset: --like r sets every field already"),
]


@pytest.mark.parametrize(("text", "argv", "line"), MISTAKES, ids=[line for _, _, line in MISTAKES])
def test_mistakes_are_one_line(
    text: str, argv: list[str], line: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_run()
    Path("run.toml").write_text(text, encoding="utf-8", errors="surrogateescape")
    before = sorted(in_tmp.rglob("*"))
    assert main(["train", *argv]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert sorted(in_tmp.rglob("*")) == before


def test_toml_has_every_field(in_tmp: Path) -> None:
    config: Any = with_values(LAPTOP, replay__urls=("redis://a?b=\"c\\d'",), replay__error_buffer=1e15)
    assert ConfigFile.read(Path(written(to_toml(config)))).over(APEX) == config
