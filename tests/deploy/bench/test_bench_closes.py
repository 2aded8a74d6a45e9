"""Benchmarks close what they have opened, whatever happens on the way."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.bench import actor, learner
from deploy.bench.replay import local_replay
from deploy.run.config import with_values
from deploy.run.presets import LAPTOP
from replay.shards.shard import Shard

CONFIG = with_values(LAPTOP, environment__env="tests.helpers.catch:make")


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record what was closed: shards without servers, and an actor that cannot act."""
    seen: list[str] = []

    def step() -> None:
        raise RuntimeError("broken")

    acting = SimpleNamespace(step=step, close=lambda: seen.append("actor"))
    writer = SimpleNamespace(counters=SimpleNamespace(items=0))
    servers = SimpleNamespace(
        start=lambda: ["redis://127.0.0.1:1", "redis://127.0.0.1:2"], stop=lambda: seen.append("servers")
    )
    monkeypatch.setattr(local_replay, "EmbeddedServers", lambda *_, **__: servers)
    monkeypatch.setattr("replay.shards.owning.ShardOwning.set_allowed", lambda *_: None)
    monkeypatch.setattr(Shard, "close", lambda shard: seen.append(f"shard {shard.index}"))
    for module in (actor, learner):
        monkeypatch.setattr(module, "make_actor", lambda *_: (acting, writer))
    return seen


def test_shards_are_closed_before_their_servers_stop_whatever_was_raised(closed: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), local_replay.open_shards(CONFIG):
        _ = 1 / 0
    assert closed == ["shard 1", "shard 0", "servers"]


@pytest.mark.parametrize("benchmark", [actor, learner])
def test_an_actor_is_closed_whatever_was_raised(
    closed: list[str], monkeypatch: pytest.MonkeyPatch, benchmark: Any
) -> None:
    @contextlib.contextmanager
    def no_shards(_: object) -> Iterator[list[Any]]:
        yield []

    monkeypatch.setattr(benchmark, "open_shards", no_shards)
    with pytest.raises(RuntimeError, match="broken"):
        benchmark.run(CONFIG, seconds=0.0)
    assert closed == ["actor"]
