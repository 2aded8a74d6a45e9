"""$RAY_ADDRESS names the Ray of a run that names none, and a Ray job is known by its environment."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray._private.runtime_env import constants

from deploy.cli.main import main
from deploy.run import preflight
from deploy.run.config import ConfigError, with_values
from deploy.run.folder import RunFolder
from deploy.run.preflight import check_job, ray_of_today, with_ray_of_environment
from deploy.run.presets import LAPTOP
from tests.helpers.runs.scripted_run import ScriptedRun, status


@pytest.fixture
def listening() -> Iterator[str]:
    """An address at which something answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def address_of(given: str) -> str:
    return with_ray_of_environment(with_values(LAPTOP, run__ray_address=given)).run.ray_address


def test_it_is_used_where_no_other_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert [address_of(given) for given in ("", "other:1", "auto", "local")] == [
        "head:6379", "other:1", "auto", "",
    ]  # fmt: skip
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert address_of("") == ""
    monkeypatch.delenv("RAY_ADDRESS")
    assert [address_of(given) for given in ("", "other:1", "local")] == ["", "other:1", ""]


@pytest.mark.parametrize(
    ("asked", "variable", "expected"),
    [
        ("", "", "own:1"),
        ("", "today:2", "today:2"),
        ("asked:3", "today:2", "asked:3"),
        ("local", "today:2", ""),
        ("local", "", ""),
    ],
)
def test_a_resumed_run_takes_the_ray_of_today(
    asked: str, variable: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)
    assert ray_of_today(asked, with_values(LAPTOP, run__ray_address="own:1")) == expected


@pytest.mark.parametrize("address", ["http://head:8265", "ray://head:10001"])
def test_the_address_of_a_dashboard_is_no_ray(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=rf"^\$RAY_ADDRESS {address}: names no Ray to train on"):
        address_of("")
    assert address_of("head:6379") == "head:6379"


def test_train_and_resume_say_where_the_address_is_from(
    tmp_path: Path, listening: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deploy.fleet.operations.launch", lambda *_, **__: ScriptedRun([status("stopped")]))
    monkeypatch.setenv("RAY_ADDRESS", listening)
    assert main(["train", "--name", "r"]) == 0
    assert f"supervisor on the Ray at {listening} (from $RAY_ADDRESS) ..." in capsys.readouterr().out
    assert RunFolder.open("r").load_config().run.ray_address == listening
    monkeypatch.delenv("RAY_ADDRESS")
    assert main(["resume", "r"]) == 0
    assert f"supervisor on the Ray at {listening} ..." in capsys.readouterr().out
    assert main(["train", "--name", "s", "--ray-address", "local"]) == 0
    assert "supervisor and its Ray ..." in capsys.readouterr().out
    assert RunFolder.open("s").load_config().run.ray_address == ""


def test_an_address_at_which_nothing_answers_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight, "ANSWER_SECONDS", 0.2)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert main(["train"]) == 2
    said = "apexpert: --ray-address 127.0.0.1:1 (from $RAY_ADDRESS): nothing answers there"
    assert capsys.readouterr().err.startswith(said)


def test_a_job_is_known_by_the_variable_that_ray_sets() -> None:
    assert constants.RAY_JOB_CONFIG_JSON_ENV_VAR == preflight.JOB_VARIABLE


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"run__detach": True}, "--detach: not in a Ray job"),
        (
            {"run__runs_dir": "/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_1/runs"},
            r"--runs-dir .*: is in this job's own copy of its working directory",
        ),
    ],
)
def test_what_a_job_makes_impossible_is_refused(
    changes: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_job(with_values(LAPTOP, **changes))
    monkeypatch.setenv(preflight.JOB_VARIABLE, "{}")
    check_job(LAPTOP)
    with pytest.raises(ConfigError, match=f"^{problem}"):
        check_job(with_values(LAPTOP, **changes))
