"""Passwords stay out of what makes Ray's actors, which its storage may keep (decision 0037)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from deploy.fleet.processes import handles
from deploy.fleet.processes.role import Assignment, Role
from deploy.run.config import ConfigError, with_values
from tests.helpers.runs.catch_runs import catch_config

URLS = ("redis://me:S3cret@a:1", "redis://b:2?password=S3cret")


class RemoteRole:
    """Takes down what makes an actor, and what its first call brings."""

    def __init__(self) -> None:
        self.made: tuple[Any, ...] = ()
        self.called: tuple[Any, ...] = ()

    def remote(self, *arguments: Any) -> Any:
        self.made = arguments
        role = self

        class Method:
            def remote(self, *arguments: Any) -> None:
                role.called = arguments

        return type("Actor", (), {"run": Method()})()


def assignment(tmp_path: Path, **changes: Any) -> Assignment:
    config = with_values(catch_config(tmp_path, run__name="r", replay__urls=URLS), **changes)
    return Assignment(config, str(tmp_path), URLS, store=None)


@pytest.mark.parametrize(
    "start",
    [
        lambda assignment: handles.start_actor(assignment, 0, 0, 0, None),
        lambda assignment: handles.start_learner(assignment, set(), "node", 0),
    ],
    ids=["actor", "learner"],
)
def test_they_come_with_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[[Assignment], Any]
) -> None:
    role = RemoteRole()
    monkeypatch.setattr(handles, "_role", lambda *_, **__: role)
    start(assignment(tmp_path))
    assert b"S3cret" not in cloudpickle.dumps(role.made)
    assert role.called == (URLS,)
    made: Assignment = role.made[0]
    assert made.with_secrets(*role.called).urls == URLS
    # Shards are counted before the call has come.
    assert len(made.urls) == 2


def test_of_a_file_the_name_travels_alone_and_each_machine_reads_its_own(tmp_path: Path) -> None:
    file = tmp_path / "urls"
    ours = assignment(tmp_path, replay__urls_file=str(file))
    assert ours.secrets == ()
    sent: Assignment = cloudpickle.loads(cloudpickle.dumps(ours.without_secrets()))
    with pytest.raises(ConfigError, match=r"--replay.urls @.*: No such file .*each machine reads its own"):
        sent.with_secrets(())
    file.write_text("redis://me:0ther@a:1\nredis://b:2\n")
    assert sent.with_secrets(()).urls == ("redis://me:0ther@a:1", "redis://b:2")
    # A server that is added while the run works is in no file.
    assert ours.with_shard("redis://c:3").secrets == (*URLS, "redis://c:3")


def test_a_shard_that_is_added_before_the_call_comes_is_used_after_the_others(tmp_path: Path) -> None:
    role = Role(assignment(tmp_path).without_secrets(), "test", patience=1.0)
    role.add_shard(2, "redis://c:3")
    role._assignment = role._assignment.with_secrets(URLS)
    used: list[Any] = []
    role._start_using(used.append)
    assert [shard.index for shard in [*role._shards(), *used]] == [0, 1, 2]
