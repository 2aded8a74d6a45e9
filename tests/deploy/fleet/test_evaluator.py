"""The evaluator on real Ray tasks that play nothing, and the supervisor's view of them."""

import dataclasses
import errno
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.fleet import evaluator
from deploy.fleet.evaluator import Evaluator
from deploy.fleet.processes.role import Assignment
from deploy.fleet.reporting.actor_metrics import FleetReport
from deploy.fleet.reporting.telemetry import Telemetry
from deploy.monitor.metrics import read_metrics
from deploy.run.config import with_values
from deploy.run.folder import RunFolder
from learner.checkpoint import CheckpointStore
from tests.helpers.deadline import patient, until
from tests.helpers.runs.catch_runs import catch_config


def evaluate(assignment: Assignment, after_update: int) -> dict[str, Any] | None:
    """Finds update 7 at 700 env steps, unless it was told of it, and no room to mark it as the best."""
    found = {"update": 7, "env_steps": 700, "return_mean": 0.5, "warning": "update-7 is not marked"}
    return found if after_update < 7 else None


def fail_once(assignment: Assignment, after_update: int) -> dict[str, Any] | None:
    """Its process dies the first time, as by the kernel's or Ray's want of memory."""
    mark = Path(assignment.folder) / "died"
    if not mark.exists():
        mark.touch()
        os._exit(1)
    return evaluate(assignment, after_update)


def fail(assignment: Assignment, after_update: int) -> None:
    raise ValueError("these games cannot be played")


def evaluate_for_ever(assignment: Assignment, after_update: int) -> None:
    time.sleep(600)


@dataclasses.dataclass
class Setup:
    evaluator: Evaluator
    telemetry: Telemetry
    folder: RunFolder

    def evaluations(self) -> list[float]:
        rows = read_metrics(self.folder.metrics_path)
        return [row["evaluation/env_steps"] for row in rows if "evaluation/env_steps" in row]

    def notes(self) -> str:
        return str(self.telemetry.publish("running", "", 1, [], {})["notes"])


@pytest.fixture
def setup(shared_ray: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def make(function: Any) -> Setup:
        monkeypatch.setattr(evaluator, "evaluate_newest", function)
        config = with_values(catch_config(tmp_path), evaluation__every_env_steps=500)
        folder = RunFolder.create(config)
        telemetry = Telemetry(config, folder, "")
        telemetry.update({"progress/env_steps": 900.0}, FleetReport(target=1, alive=1))
        assignment = Assignment(config, str(folder.path), (), None)
        return Setup(Evaluator(assignment, "DEFAULT", telemetry), telemetry, folder)

    return make


def test_one_is_made_at_each_period_and_the_last_checkpoint_is_not_left_out(setup):
    made = setup(evaluate)
    made.evaluator.step({"progress/env_steps": 499.0})
    made.evaluator.finish(lambda: False)
    assert made.evaluations() == [700.0]
    assert "update-7 is not marked" in made.notes()
    made.evaluator.finish(lambda: False)
    assert made.evaluations() == [700.0], "it was evaluated already"
    status = made.telemetry.publish("running", "", 1, [], {})
    made.folder.write_json("status.json", status)
    again = Telemetry(made.telemetry._config, made.folder, "")
    assert again.before["evaluation/env_steps"] == 700.0


def test_after_a_resume_the_next_is_due_at_the_next_period(setup):
    made = setup(evaluate)
    made.telemetry.before["evaluation/env_steps"] = 700.0
    resumed = Evaluator(made.evaluator._assignment, "DEFAULT", made.telemetry)
    resumed.step({"progress/env_steps": 999.0})
    resumed.finish(lambda: True)
    assert made.evaluations() == []
    resumed.step({"progress/env_steps": 1_000.0})
    until(lambda: resumed.step({}) or bool(made.evaluations()), "an evaluation")


def test_a_last_evaluation_whose_process_died_is_made_once_more(setup):
    made = setup(fail_once)
    made.evaluator.finish(lambda: False)
    assert "evaluation failed" in made.notes()
    assert made.evaluations() == [700.0]


def test_one_that_always_fails_holds_up_no_end(setup):
    made = setup(fail)
    made.evaluator.finish(lambda: False)
    assert made.notes().count("evaluation failed: ValueError: these games cannot be played'") == 2
    assert made.evaluations() == []


def test_whoever_wants_the_end_at_once_gets_it(setup):
    made = setup(evaluate_for_ever)
    began = time.monotonic()
    made.evaluator.finish(lambda: time.monotonic() - began > 0.5)
    assert time.monotonic() - began < patient(10)
    assert "the run ends before its last evaluation did" in made.notes()
    assert made.evaluations() == []


def test_a_mark_for_which_there_is_no_room_costs_no_report(tmp_path, monkeypatch):
    """The games are played by then."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    config = catch_config(tmp_path)
    folder = RunFolder.create(config)
    CheckpointStore(folder.checkpoints).save(7, {}, {"env_steps": 700})
    played = SimpleNamespace(to_json=lambda: {"return_mean": 0.5})
    monkeypatch.setattr("deploy.reports.evaluation.evaluate_checkpoint", lambda *_, **__: played)
    monkeypatch.setattr(CheckpointStore, "mark_best", full)
    for name in ("torch.set_num_threads", "deploy.fleet.evaluator.log_to"):  # this process is not the task's
        monkeypatch.setattr(name, lambda *_: None)
    assert evaluator.evaluate_newest(Assignment(config, str(folder.path), (), None), -1) == {
        "return_mean": 0.5,
        "update": 7,
        "env_steps": 700,
        "warning": "update-000000007 cannot be marked as the best: No space left on device",
    }
