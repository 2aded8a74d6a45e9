"""A run's metrics on standard output, for people and for programs."""

import csv
import io
import json
from pathlib import Path

import pytest

from deploy.cli.main import main
from tests.helpers.runs.scripted_run import saved_run

RECORDS = [
    {"time": 1.5, "env_steps": 10, "learner/loss": 0.25},
    {"time": 2.5, "env_steps": 20, "a/b": 1e-9, "learner/loss": 0.125},
    {"time": 1764374400.123, "env_steps": 1_000_000, "learner/loss": 2.0},
]


@pytest.fixture(autouse=True)
def run(in_tmp: Path) -> None:
    lines = [json.dumps(record) for record in RECORDS]
    saved_run().metrics_path.write_text("\n".join([*lines, '{"time": 3.5, "env_']))


def test_csv_has_every_record_and_metric(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", "r", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == ["time", "env_steps", "a/b", "learner/loss"]
    assert [{k: float(v) for k, v in row.items() if v} for row in rows] == RECORDS


def test_the_newest_value_of_each_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", "r"]) == 0
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert shown == {"time": "1764374400.123", "env_steps": "1,000,000", "a/b": "1e-09", "learner/loss": "2"}


def test_a_run_without_metrics_says_so(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = in_tmp / "runs" / "r" / "metrics.jsonl"
    path.unlink()
    assert main(["metrics", "r", "--csv"]) == 1
    assert capsys.readouterr().err == f"apexpert: r has no metrics yet: {path}\n"
