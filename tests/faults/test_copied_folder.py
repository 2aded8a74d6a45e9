"""`cp -r` of the folder of a run that is at work: the copy is a run of its own, and the original goes on."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.faults.test_terminated import ENDLESS, learns, status
from tests.helpers.deadline import patient, until
from tests.helpers.runs.catch_runs import flags, metric
from tests.helpers.runs.commands import NAME, Terminal
from tests.helpers.runs.processes import is_there, live_parts


@pytest.mark.faults_long
def test_a_copy_of_a_live_run_is_a_run_of_its_own(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    folder = terminal.folder
    with terminal.started("train", "--preset", "laptop", *flags(ENDLESS)) as command:
        learns(folder, command, 60)  # a checkpoint is there
        copy = terminal.copy(tmp_path / "backup")
        parts = live_parts(folder)
        assert all(map(is_there, parts))

        shown = copy.run("replay", NAME, "--json")
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)["items"] > 0
        told = copy.run("status", NAME)
        assert "r: lost" in told.stdout
        assert "a copy of a run that was at work" in told.stdout
        for words in (["stop", NAME], ["scale", NAME, "--actors", "2"]):
            assert copy.run(*words).returncode == 2
        known = metric(status(copy.folder), "progress/env_steps")
        goal = int(known) + 300
        done = copy.run("resume", NAME, "--total-env-steps", str(goal), seconds=180)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "resuming at" in done.stdout
        assert metric(status(copy.folder), "replay/missing") == 0

        assert all(map(is_there, parts)), "nothing of the original was touched"
        learns(folder, command, metric(status(folder), "progress/updates") + 10)
        assert metric(status(folder), "replay/missing") == 0
        os.kill(command.process.pid, signal.SIGINT)
        assert command.process.wait(patient(60)) == 0, command.printed()
    until(lambda: not any(map(is_there, parts)), "the original's end")
