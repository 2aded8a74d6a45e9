"""The supervisor's first moments: what reaches it before it is at work."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from unittest.mock import Mock

import pytest

from deploy.fleet import parts, supervisor
from deploy.fleet.supervisor import Supervisor
from deploy.run.folder import RunFolder
from deploy.run.status import read_status
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


def test_a_run_whose_servers_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that load a large replay take long."""
    left, said = threading.Event(), []

    class LoadingServers:
        def __init__(self, *_: object, should_stop: Callable[[], bool], **__: object) -> None:
            self._should_stop = should_stop

        def start(self) -> None:
            monkeypatch.setattr(supervisor, "STATUS_SECONDS", 0.0)
            self._should_stop()
            said.append((folder.read_json("status.json", {})["state"], read_status(folder)["message"]))
            raise ServersStopped

    folder = RunFolder.create(catch_config(tmp_path))
    monkeypatch.setattr(supervisor, "log_to", lambda *_: None)
    monkeypatch.setattr(supervisor.signal, "signal", lambda *_: None)
    monkeypatch.setattr(supervisor.ray, "get_runtime_context", Mock())
    monkeypatch.setattr(parts, "EmbeddedServers", LoadingServers)
    monkeypatch.setattr(parts, "own_address", lambda: "")
    monkeypatch.setattr(Supervisor, "_leave", lambda _: left.set())
    Supervisor(str(folder.path))
    until(left.is_set, "its end")
    assert said == [("starting", "waiting for the replay's servers")]
    assert read_status(folder)["message"] == "", "a run that has ended waits for nothing"


def test_it_stays_until_its_end_is_seen_by_whoever_awaits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detached run is stopped by a command that does not see its folder, and reads the end from here."""
    waits: list[bool] = []
    monkeypatch.setattr(supervisor, "ray", Mock())
    for awaited in (False, True):
        run = Supervisor.__new__(Supervisor)
        run._awaited, run._terminated, run._local_ray = False, False, None
        run._stop_asked, run._final_seen = threading.Event(), Mock()
        run.stop(awaited)
        run._leave()
        waits.append(run._final_seen.wait.called)
    assert waits == [False, True]
