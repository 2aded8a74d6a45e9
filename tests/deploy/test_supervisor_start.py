"""The supervisor's first moments: what reaches it before it is at work."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from deploy.fleet import supervisor
from deploy.fleet.supervisor import Supervisor
from deploy.run.folder import RunFolder
from replay.errors import ServersStopped
from tests.helpers.deadline import until
from tests.helpers.runs.catch_runs import catch_config


def test_a_sigterm_that_comes_as_soon_as_it_is_handled_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, terminated = threading.Event(), []

    def handled(number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        if number == signal.SIGTERM:
            handler(number, None)

    def set_up(run: Supervisor, _: object) -> None:
        terminated.append(run._terminated)
        raise ServersStopped

    monkeypatch.setattr(supervisor, "log_to", lambda *_: None)
    monkeypatch.setattr(supervisor.signal, "signal", handled)
    monkeypatch.setattr(Supervisor, "_set_up", set_up)
    monkeypatch.setattr(Supervisor, "_leave", lambda _: left.set())
    Supervisor(str(RunFolder.create(catch_config(tmp_path)).path))
    until(left.is_set, "its end")
    assert terminated == [True]
