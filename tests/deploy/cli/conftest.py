"""Commands run in an empty folder, and with a run in the fleet's place."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.run.config import Config
from deploy.run.folder import RunFolder
from tests.helpers.runs.scripted_run import ScriptedRun


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deploy.cli.run.follow.PERIOD_SECONDS", 0.01)
    monkeypatch.setattr("deploy.run.preflight.ANSWER_SECONDS", 0.2)
    return tmp_path


@pytest.fixture
def launched(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[ScriptedRun], list[tuple[Config, RunFolder, bool]]]:
    def use(run: ScriptedRun) -> list[tuple[Config, RunFolder, bool]]:
        calls: list[tuple[Config, RunFolder, bool]] = []

        def launch(config: Config, folder: RunFolder, *, resume: bool, **_: object) -> ScriptedRun:
            calls.append((config, folder, resume))
            return run

        monkeypatch.setattr("deploy.fleet.operations.launch", launch)
        monkeypatch.setattr("deploy.fleet.operations.connect", lambda folder: run)
        return calls

    return use
