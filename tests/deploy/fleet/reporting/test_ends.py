"""A run that is finished before its last env step: by its hours, or because its return is good enough."""

import math
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.episodes import Episode
from deploy.fleet.reporting.ends import end_reached
from deploy.fleet.reporting.telemetry import Telemetry
from deploy.fleet.supervisor import Supervisor
from deploy.run.config import with_values
from deploy.run.folder import RunFolder
from deploy.run.presets import LAPTOP

HOURS = with_values(LAPTOP, run__max_hours=0.5)
RETURN = with_values(LAPTOP, run__until_return=-3.0)


@pytest.mark.parametrize(
    ("config", "seconds", "greedy", "end"),
    [
        (LAPTOP, 1e9, 1e9, ""),
        (HOURS, 1799.9, None, ""),
        (HOURS, 1800.0, None, "--max-hours 0.5 is reached"),
        (RETURN, 1e9, None, ""),
        (RETURN, 0.0, math.nextafter(-3.0, -4.0), ""),
        (RETURN, 0.0, -3.0, "--until-return -3 is reached: -3.00 in the last 100 nearly greedy episodes"),
    ],
)
def test_an_end_is_reached(config: Any, seconds: float, greedy: float | None, end: str) -> None:
    assert end_reached(config, seconds, greedy) == end


def test_a_return_counts_once_a_hundred_nearly_greedy_episodes_have_it(tmp_path: Path) -> None:
    folder = RunFolder.create(with_values(RETURN, run__runs_dir=str(tmp_path)))
    telemetry = Telemetry(folder.load_config(), folder, "")
    telemetry.add_episodes([Episode(9.0, 1, 0, 0.06)] * 100 + [Episode(-2.0, 1, 0, 0.05)] * 99)
    assert telemetry.end_reached() == ""
    telemetry.add_episodes([Episode(-2.0, 1, 0, 0.05)])
    assert telemetry.end_reached().startswith("--until-return -3 is reached: -2.00")
    telemetry.add_episodes([Episode(-200.0, 1, 0, 0.05)])
    assert telemetry.end_reached() == ""
    telemetry.close()


def test_the_hours_of_all_legs_count(tmp_path: Path) -> None:
    folder = RunFolder.create(with_values(HOURS, run__runs_dir=str(tmp_path)))
    folder.write_json("status.json", {"metrics": {"progress/seconds": 1801.0}})
    telemetry = Telemetry(folder.load_config(), folder, "")
    assert telemetry.end_reached() == "--max-hours 0.5 is reached"
    telemetry.close()


def test_a_run_whose_end_is_reached_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a turn of the supervisor's loop sees it, once the learner has said where the run is."""
    turns = []
    run: Any = Supervisor.__new__(Supervisor)
    run._stop_asked = threading.Event()
    run._new_shards = SimpleNamespace(step=lambda parts: None)
    run._telemetry = SimpleNamespace(end_reached=lambda: "the end")
    monkeypatch.setattr(run, "_begin_over_without_servers", lambda parts: None, raising=False)
    learner = SimpleNamespace(outcome="", message="", ready=False)
    learner.step = lambda: (turns.append(0), setattr(learner, "ready", len(turns) > 1))
    waiting = SimpleNamespace(step=lambda *_: [], new_dead=set())
    learner.mark_dead, learner.metrics = (lambda dead: None), {}
    run._abandoned = lambda: False
    run._config, run._published, run._state = LAPTOP, math.inf, "starting"
    run._telemetry.add_episodes = lambda episodes: None
    parts = SimpleNamespace(actors=waiting, learner=learner, evaluator=waiting)
    assert run._supervise(parts) == ("finished", "the end")
    assert len(turns) == 2, "not before the learner has restored"
