"""Runs side by side: what differs, and nothing else of the settings."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.cli.main import main
from deploy.run.config import with_values
from deploy.run.folder import RunFolder
from deploy.run.presets import LAPTOP
from tests.helpers.runs.scripted_run import status


def run(name: str, **values: Any) -> RunFolder:
    folder = RunFolder.create(with_values(LAPTOP, run__name=name, **values))
    folder.write_json("status.json", status("finished"))
    return folder


def diff(capsys: pytest.CaptureFixture[str], *runs: str) -> Any:
    assert main(["diff", *runs, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_settings_that_differ_are_named_by_their_flags(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("a", replay__urls=("redis://:secret@a:6379",))
    run("b", run__seed=1, learner__double=True, replay__urls=("redis://:other@a:6379",))
    found = diff(capsys, "a", "runs/b")
    assert found["runs"] == ["a", "b"]
    assert found["settings"] == {"--seed": ["0", "1"], "--learner.double": ["no", "yes"]}
    assert found["made with"] == {}


def test_settings_that_are_shown_alike_differ_all_the_same(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("a", learner__learning_rate=1.0000001e-4)
    run("b", learner__learning_rate=1.0000002e-4)
    found = diff(capsys, "a", "b")
    assert found["settings"] == {"--learner.learning-rate": ["0.00010000001", "0.00010000002"]}


def test_what_runs_were_made_with_differs_too(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = run("a"), run("b")
    metadata = a.read_json("metadata.json", {})
    changed = metadata | {"commit": "f" * 40 + "+", "versions": metadata["versions"] | {"torch": "2.9"}}
    b.write_json("metadata.json", changed | {"hardware": metadata["hardware"] | {"gpus": ["one", "two"]}})
    found = diff(capsys, "a", "b")["made with"]
    assert found["commit"][1] == "ffffffffffff+"
    assert found["torch"] == [metadata["versions"]["torch"], "2.9"]
    assert found["gpus"][1] == "one, two"
    assert {"python", "cpu", "cores"}.isdisjoint(found)


def test_results_stand_beside_each_other_equal_or_not(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, _ = run("a"), run("b")
    for name, mean in (("9-seed-1", 1), ("10-seed-1", 2), ("10-seed-2-without-mixture", 3)):
        update, _, rest = name.partition("-")
        report = {"return_mean": float(mean), "episodes": 30}
        a.write_json(f"evaluation-update-{int(update):09d}-{rest}.json", report)
    a.write_json("evaluation-update-000000010-seed-2-games-5.json", {"return_mean": 4.0, "episodes": 5})
    (a.path / "evaluation-update-000000011-seed-1.json").write_text('{"return_mean": 3.0, "epi')
    found = diff(capsys, "a", "b")["results"]
    assert found["evaluation"] == ["2.00 (30 games)", "-"]
    assert found["env steps"] == ["6,000", "6,000"]


def test_an_evaluation_of_another_number_of_games_counts_where_it_is_the_only_one(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, _ = run("a"), run("b")
    for name, mean in (("9-seed-1", 1.0), ("10-seed-1-games-5", 4.0)):
        update, _, rest = name.partition("-")
        name = f"evaluation-update-{int(update):09d}-{rest}.json"
        a.write_json(name, {"return_mean": mean, "episodes": 5})
    assert diff(capsys, "a", "b")["results"]["evaluation"] == ["4.00 (5 games)", "-"]


def test_no_limit_stands_beside_a_limit(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("a")
    run("b", run__max_hours=2.0, run__until_return=18.0)
    found = diff(capsys, "a", "b")["settings"]
    assert (found["--max-hours"], found["--until-return"]) == (["-", "2"], ["-", "18"])


def test_three_runs_are_three_columns(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate("abc"):
        run(name, run__seed=seed)
    assert main(["diff", "a", "b", "c"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["--seed", "0", "1", "2"] in [line.split() for line in lines]
    assert ["nothing", "differs"] in [line.split() for line in lines]


@pytest.mark.parametrize("runs", [[], ["a"]])
def test_one_run_is_not_enough(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *runs]) == 2
    assert "RUN RUN: name two runs or more" in capsys.readouterr().err
