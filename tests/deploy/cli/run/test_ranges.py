"""How many actors: ranges on the command line, and what a resumed run keeps."""

import os
from typing import Any

import pytest

from deploy.cli.main import main
from deploy.fleet import client
from deploy.fleet.errors import FleetError
from deploy.fleet.run_state import FleetState
from deploy.run.config import with_values
from tests.helpers.runs.scripted_run import ScriptedRun, run_line, saved_run, status


def test_a_range_reaches_the_run_and_its_lower_end_may_crowd(
    launched: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    saved_run("running")
    run = ScriptedRun([status("running")])
    launched(run)
    code, out, _ = run_line(capsys, "scale", "r", "--actors", "auto:8-200")
    assert (code, run.calls) == (0, ["scale auto:8-200", "close"])
    assert "auto:8-200 actors asked for" in out
    assert "WARNING: 8 actors on 2 cores" in out
    assert "WARNING" not in run_line(capsys, "scale", "r", "--actors", "auto")[1]


@pytest.mark.parametrize(
    ("given", "asked", "target"),
    [([], "auto:8-200", 13), (["--actors", "auto:2-4"], "auto:2-4", 13), (["--actors", "5"], 5, 5)],
)
def test_resume_keeps_what_was_scaled_unless_it_is_told_otherwise(
    given: list[str], asked: Any, target: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run was started with one actor, scaled to a range, and had come to 13."""
    folder = saved_run()
    before = FleetState(folder)
    before.ask("auto:8-200")
    before.target = 13
    seen: list[FleetState] = []

    def start_local() -> None:
        seen.append(FleetState(folder))
        raise FleetError("no Ray")

    monkeypatch.setattr(client.cluster, "start_local", start_local)
    assert main(["resume", "r", *given]) != 0
    assert (seen[0].asked, seen[0].target) == (asked, target)


def test_a_new_run_has_the_actors_of_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.cluster, "start_local", lambda: 1 / 0)
    folder = saved_run()
    with pytest.raises(ZeroDivisionError):
        client.launch(with_values(folder.load_config(), actors__num_actors="auto:2-4"), folder, resume=False)
    assert (FleetState(folder).asked, FleetState(folder).target) == ("auto:2-4", 0)
