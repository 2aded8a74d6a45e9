"""A Ray with fewer cores than the run asks for."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.deadline import patient, until
from tests.helpers.runs.catch_runs import flags
from tests.helpers.runs.commands import NAME, SHORT, Terminal
from tests.helpers.runs.processes import is_alive
from tests.helpers.runs.rays import ray_of_nodes

SECONDS = 120


@pytest.fixture
def address() -> Iterator[str]:
    """A Ray of one node with two cores, one of which is the learner's."""
    with ray_of_nodes(2) as address:
        yield address


@pytest.mark.faults_long
def test_a_killed_learner_starts_again_though_an_actor_waits_for_a_core(address: str, tmp_path: Path) -> None:
    options = {"ray_address": address, "name": NAME, "total_env_steps": 10**6}
    config = SHORT | {"actors": SHORT["actors"] | {"num_actors": 2}, "run": SHORT["run"] | options}
    terminal = Terminal(tmp_path)

    def status() -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((terminal.folder.path / "status.json").read_text())
        except FileNotFoundError:
            return {"learner": {}, "actors": [], "metrics": {}}
        return found

    def updates() -> float:
        return float(status()["metrics"].get("progress/updates", 0))

    with terminal.started("train", "--preset", "laptop", *flags(config)) as command:
        until(lambda: status()["learner"].get("ready") and updates() > 60, "a run", SECONDS)
        assert sorted(row["state"] for row in status()["actors"]) == ["running", "starting"]
        pid, before = status()["learner"]["pid"], updates()
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_alive(pid), "its end")
        until(lambda: status()["learner"].get("pid") not in (None, pid), "another learner", SECONDS)
        until(lambda: updates() > before + 20, "more updates", SECONDS)
        command.prints("actor 1 has waited 20 s to start", SECONDS)
        command.process.send_signal(signal.SIGINT)
        assert command.process.wait(patient(60)) == 0
