"""A run that answers with given statuses, one that is saved, and the command line's answer."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from deploy.cli.main import main
from deploy.run.config import with_values
from deploy.run.folder import RunFolder
from deploy.run.presets import LAPTOP

METRICS = {
    "progress/env_steps": 6_000.0,
    "progress/updates": 125.0,
    "progress/seconds": 61.0,
    "episode/return_mean_100": -20.5,
    "episode/count": 7.0,
    "replay/samples_per_insert": 3.99,
    "replay/size": 6_000.0,
}


def status(state: str, **more: Any) -> dict[str, Any]:
    return {
        "run": "r",
        "state": state,
        "message": "",
        "time": time.time(),
        "metrics": METRICS,
        "total_env_steps": 10_000,
        "target_actors": 1,
        "actors": [],
        "notes": [],
    } | more


class ScriptedRun:
    """Answers with given statuses and notes what it was asked to do."""

    def __init__(
        self, statuses: list[dict[str, Any]], after_stop: list[dict[str, Any]] | None = None
    ) -> None:
        self._statuses = statuses
        self._after_stop = after_stop or []
        self.calls: list[str] = []
        self.on_status: Callable[[int], None] = lambda _: None
        self._asked = 0
        self.is_gone = False
        self.last: dict[str, Any] = {}

    def status(self) -> dict[str, Any]:
        self._asked += 1
        self.on_status(self._asked)
        return self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]

    def last_words(self, timeout: float, told_to_stop: bool) -> dict[str, Any]:
        self.calls.append(f"last words {told_to_stop}")
        return self.last or self._statuses[-1]

    def stop(self) -> None:
        self.calls.append("stop")
        self._statuses = self._after_stop

    def scale(self, actors: int | str) -> None:
        self.calls.append(f"scale {actors}")

    def add_shards(self, num_shards: int, urls: tuple[str, ...]) -> None:
        self.calls.append(f"add {num_shards} {urls}")

    def heartbeat(self) -> None:
        self.calls.append("heartbeat")

    def close(self) -> None:
        self.calls.append("close")

    def shutdown(self) -> None:
        self.calls.append("shutdown")


def run_line(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    try:
        code = main(argv)
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def saved_run(state: str = "stopped", **more: Any) -> RunFolder:
    folder = RunFolder.create(with_values(LAPTOP, run__name="r", run__total_env_steps=10_000))
    folder.write_json("status.json", status(state, **more))
    return folder
