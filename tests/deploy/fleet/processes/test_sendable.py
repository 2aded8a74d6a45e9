"""Errors that a role sends to the supervisor: what a user's own code raised keeps its file and line."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.fleet.processes import learner_process
from deploy.fleet.processes.roles import ActorRole
from deploy.fleet.processes.sendable import sendable
from replay.errors import ReplayError


class Local(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one)


@pytest.fixture
def users(tmp_path: Path) -> Any:
    """A module of the user's own whose `forward` raises in its third line."""
    file = tmp_path / "users_net.py"
    file.write_text("def forward():\n    x = 1\n    raise ValueError('boom')\n")
    spec = importlib.util.spec_from_file_location("users_net", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def raised(call: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever it is)
        call()
    assert isinstance(caught.value, Exception)
    return caught.value


def test_what_is_ours_is_sent_as_it_is():
    for error in (ReplayError("gone"), ValueError("boom")):
        assert sendable(error) is error
    assert sendable(None) is None


def test_what_the_other_side_does_not_know_is_sent_as_text():
    assert str(sendable(Local(1, 2))).startswith("Local: 1")


def test_what_passed_through_a_users_code_is_sent_with_its_place(users):
    error = raised(users.forward)
    assert str(sendable(error)) == f"ValueError: boom ({users.__file__}, line 3)"


def test_an_actor_ends_with_the_place_in_the_users_code(users, monkeypatch):
    monkeypatch.setattr(ActorRole, "_act", lambda role: users.forward())
    role = object.__new__(ActorRole)
    role._assignment = SimpleNamespace(with_secrets=lambda secrets: None)
    error = raised(lambda: role.run(()))
    assert str(error).endswith(f"({users.__file__}, line 3)")


def test_a_learner_ends_with_the_place_in_the_users_code(users, monkeypatch):
    monkeypatch.setattr(learner_process.signal, "signal", lambda *_: None)
    ends: list[Any] = []
    process: Any = SimpleNamespace(
        listen=lambda: None, run=users.forward, tell_end=lambda *end: ends.append(end), alone=False
    )
    learner_process.run(process)
    ((outcome, error),) = ends
    assert outcome == ""
    assert str(error).endswith(f"({users.__file__}, line 3)")
