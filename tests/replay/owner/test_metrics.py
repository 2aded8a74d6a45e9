"""Every counter that a sampler or a writer keeps is among the metrics that it tells."""

from dataclasses import fields
from pathlib import Path

import pytest

from replay.config import ReplayConfig
from replay.items.counters import Counters
from replay.log.reader import COUNTERS
from replay.sampler import Sampler
from replay.shards.shard import Shard
from replay.types import Signature
from replay.writer import Writer, WriterCounters

SIGNATURE = Signature((84, 84), 4, 3, 3)
SIZES = {"segments", "items", "bytes"}
"""What a reader took in; `replay/inserted`, `replay/segments` and `replay/bytes` tell it of the table."""


@pytest.fixture
def shards(tmp_path: Path) -> list[Shard]:
    return [Shard(f"unix://{tmp_path}/none.sock", run="r", index=0)]


@pytest.fixture
def sampler(shards: list[Shard]) -> Sampler:
    config = ReplayConfig(capacity=1_000, min_size=100, frame_store_bytes=2**24)
    options = {"run": "r", "signature": SIGNATURE, "batch_size": 32, "samples_per_insert": 8.0, "seed": 0}
    return Sampler(config, shards, **options)


@pytest.mark.parametrize("name", [field.name for field in fields(Counters)])
def test_each_counter_of_a_sampler_is_told(sampler: Sampler, name: str) -> None:
    before = sampler.metrics()[f"replay/{name}"]
    setattr(sampler.counters, name, 1_000)
    assert sampler.metrics()[f"replay/{name}"] == before + 1_000


@pytest.mark.parametrize("kind", sorted(set(COUNTERS) - SIZES))
def test_so_is_each_of_its_reader(sampler: Sampler, kind: str) -> None:
    name = f"replay/{kind}" if kind in ("duplicates", "missing") else f"replay/rejected_{kind}"
    sampler._recovery.reader.counters[kind] += 1_000
    assert sampler.metrics()[name] == 1_000


@pytest.mark.parametrize("name", [field.name for field in fields(WriterCounters)])
def test_each_counter_of_a_writer_is_told(shards: list[Shard], name: str) -> None:
    writer = Writer(shards, run="r", signature=SIGNATURE)
    setattr(writer.counters, name, 1_000)
    assert writer.metrics()[f"writer/{name}"] == 1_000
    shards[0]._connection.retries = 3
    assert writer.metrics()["writer/connection_retries"] == 3
