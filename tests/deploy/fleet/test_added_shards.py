"""Shards added to a run at work: its configuration has those that are in use, and no others."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.fleet.parts import Parts, ShardAdditions
from deploy.run.config import Config
from deploy.run.folder import RunFolder
from replay.errors import ServerError
from tests.helpers.runs.catch_runs import catch_config

OWN = "redis://a:1"


class Added(list[str]):
    """The learner and the actors: which shards they were given."""

    add_shard = list.append


class Servers(list[int]):
    """Embedded servers, of which a second one does not start."""

    def add(self) -> str:
        if self:
            raise ServerError("no memory")
        self.append(1)
        return "unix:/1.sock"


def parts(servers: Servers | None = None) -> tuple[Parts, Added]:
    learner = Added()
    return SimpleNamespace(learner=learner, actors=Added(), servers=servers), learner


def additions(tmp_path: Path, **changes: object) -> tuple[ShardAdditions, RunFolder, list[str]]:
    folder, notes = RunFolder.create(catch_config(tmp_path, run__name="r", **changes)), list[str]()
    return ShardAdditions(folder.load_config(), folder, notes.append), folder, notes


def test_a_shard_that_cannot_be_noted_leaves_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, folder, notes = additions(tmp_path, replay__urls=(OWN,))
    plain = RunFolder.save_config

    def save(own: RunFolder, config: Config) -> None:
        if "redis://c:1" in config.replay.urls:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(own, config)

    monkeypatch.setattr(RunFolder, "save_config", save)
    run, used = parts()
    shards.ask(0, ("redis://b:1", "redis://c:1", "redis://d:1"))
    shards.step(run)
    assert used == ["redis://b:1"]
    assert folder.load_config().replay.urls == (OWN, *used)
    assert notes == ["shard added: 2 shards", "no shard added: [Errno 28] No space left on device"]
    shards.ask(0, ("redis://d:1",))
    shards.step(run)
    assert folder.load_config().replay.urls == (OWN, "redis://b:1", "redis://d:1")


def test_a_server_that_does_not_start_leaves_the_one_before_it(tmp_path: Path) -> None:
    shards, folder, notes = additions(tmp_path, replay__shards=1)
    run, used = parts(Servers())
    shards.ask(3, ())
    for _ in range(3):
        shards.step(run)
    assert used == ["unix:/1.sock"]
    assert folder.load_config().replay.shards == 2
    assert notes == ["shard added: 2 shards", "no shard added: no memory"]
