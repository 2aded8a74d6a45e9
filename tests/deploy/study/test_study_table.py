"""The table of a study: which runs are where, and how long it will take."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deploy.study import table as module
from deploy.study.driver import RunState
from deploy.study.plan import plan
from deploy.study.table import StudyTable
from tests.helpers.runs.studies import ARMS, SIZES, STUDY, read


@pytest.fixture
def states(tmp_path: Path) -> list[RunState]:
    study = read(tmp_path, STUDY + ARMS + SIZES)
    return [RunState(planned) for planned in plan(study, study.size("full"), Path("runs"))]


def status(state: str, **metrics: float) -> dict[str, Any]:
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return {"state": state, "metrics": named, "message": "", "total_env_steps": 30_000, "time": 0.0}


def shown(table: StudyTable) -> str:
    assert isinstance(table._out.file, io.StringIO)
    return table._out.file.getvalue()


def plain(at_once: int = 1) -> StudyTable:
    return StudyTable("trial", at_once, out=Console(file=io.StringIO(), width=200))


def test_a_change_of_state_is_a_line_and_only_once(states):
    table = plain()
    states[0].state, states[0].status = "running", status("running", progress__env_steps=900.0)
    table.update(states)
    table.update(states)
    states[0].state = "failed"
    states[0].message = "no [memory]"
    table.update(states)
    assert shown(table).splitlines() == [
        "dense-Pong-1: running, 900 / 30,000 env steps, return -",
        "dense-Pong-1: failed, 900 / 30,000 env steps, return -; no [memory]",
    ]


def test_the_time_left_is_that_of_the_runs_at_work_and_of_those_that_wait(states, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("deploy.monitor.console.time.monotonic", lambda: clock[0])
    table = plain(at_once=2)
    assert table.left(states) is None
    states[0].state, states[0].status = "finished", status("finished", progress__seconds=60.0)
    # One run took a minute, and seven are left, two at once.
    assert table.left(states) == pytest.approx(7 * 60.0 / 2)
    states[1].state = "running"
    for env_steps, updates in ((1_000.0, 1.0), (2_000.0, 2.0), (12_000.0, 3.0)):
        clock[0] += 10.0
        counts = {"progress__env_steps": env_steps, "progress__updates": updates}
        states[1].status = status("running", progress__seconds=clock[0] - 100.0, **counts)
        table.update(states)
    # It makes 10,000 env steps in 10 s, so 18 s are left of it, 48 s are all of it.
    assert table.left(states) == pytest.approx((6 * (60.0 + 48.0) / 2 + 18.0) / 2)
    assert "1 of 8 finished, 1 at work, 6 waiting; about 0:02:51 left" in table.summary(states)


def test_what_a_run_has_done_already_is_not_left_again(states):
    table = plain()
    states[0].state, states[0].status = "finished", status("finished", progress__seconds=60.0)
    states[1].state, states[1].status = "evaluating", status("evaluating", progress__seconds=61.0)
    states[2].state, states[2].status = "lost", status("lost", progress__seconds=45.0)
    assert table.left(states[:2]) == 0.0, "it has all its env steps"
    assert table.left(states[:3]) == pytest.approx(60.0 - 45.0)
    states[2].state, states[2].held = "stopped", True
    assert table.left(states[:4]) == pytest.approx(60.0), "what a person has stopped is not resumed"


def test_a_terminal_has_a_row_for_each_run_that_has_begun_and_the_newest_of_many(states, monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 2)
    out = Console(file=io.StringIO(), width=200, force_terminal=True)
    table = StudyTable("trial", 1, out=out)
    for state in states[:4]:
        state.state, state.status = "finished", status("finished", episode__return_mean_100=-3.5)
    states[0].state = "failed"
    table.update(states)
    table.close()
    assert isinstance(out.file, io.StringIO)
    last = out.file.getvalue().rpartition("trial: 3 of 8")[2]
    assert "dense-Pong-1" in last, "what has failed stays"
    assert "soft-2-Boxing-1" in last
    assert "dense-Boxing-1" not in last
    assert "-3.50" in last
