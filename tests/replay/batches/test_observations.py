"""What the sampler does when segments that it wants to read from Redis are gone or damaged."""

import pytest
import redis

from replay.errors import NotEnoughData
from replay.types import Segment
from tests.helpers.replay.samplers import Run, ingest_all, located, new_run
from tests.helpers.shards.servers import shared_urls


@pytest.fixture(scope="module")
def urls() -> list[str]:
    return shared_urls()


def raw_keys(run: Run, segments: list[Segment], shard: int) -> tuple[redis.Redis, list[str]]:
    client = redis.Redis.from_url(run.urls[shard])
    keys = [f"apexpert:{{{run.name}:{shard}}}:seg:{segment.identity}" for segment in segments]
    assert client.exists(*keys) == len(keys)
    return client, keys


def test_segments_found_missing_are_dropped_and_drawn_again(urls: list[str]) -> None:
    run = new_run(urls)
    gone = run.fill(0, 60, actor=0)
    run.fill(1, 90, actor=1)
    sampler = run.sampler(store_bytes=0, batch_size=64)
    ingest_all(sampler)
    client, keys = raw_keys(run, gone, 0)
    client.delete(*keys)
    batch = sampler.sample()
    run.check(sampler, batch)
    assert {run.shard_of[identity] for identity, _ in located(sampler, batch)} == {1}
    assert (batch.probability == 1 / sampler.size).all()
    assert sampler.metrics()["replay/frame_store_misses"] == 64, "each item of the batch once"
    dropped = sampler.metrics()["replay/missing"]
    assert 0 < dropped <= len(gone)
    for _ in range(20):
        run.check(sampler, sampler.sample())
    assert sampler.metrics()["replay/missing"] == len(gone)
    assert sampler.size == 90
    assert sampler.inserted == 150


def test_damaged_blocks_are_dropped_and_drawn_again(urls: list[str]) -> None:
    run = new_run(urls)
    bad = run.fill(0, 40, actor=0)
    run.fill(2, 40, actor=1)
    sampler = run.sampler(store_bytes=0, batch_size=64)
    ingest_all(sampler)
    client, keys = raw_keys(run, bad, 0)
    for key in keys:
        client.setrange(key, client.strlen(key) - 20, b"\x00" * 20)
    for _ in range(20):
        run.check(sampler, sampler.sample())
    assert sampler.metrics()["replay/missing"] == 0
    # Only blocks that were asked for are noticed: others of the same segment are still good.
    assert 0 < sampler.metrics()["replay/rejected"] <= len(bad)


def test_nothing_left_to_draw(urls: list[str]) -> None:
    run = new_run(urls)
    sampler = run.sampler(store_bytes=0)
    assert not sampler.can_sample()
    with pytest.raises(NotEnoughData, match="no batch of 32 yet"):
        sampler.sample()
    gone = run.fill(0, 30, actor=0)
    ingest_all(sampler)
    client, keys = raw_keys(run, gone, 0)
    client.delete(*keys)
    with pytest.raises(NotEnoughData, match="gone"):
        sampler.sample()
    assert not sampler.can_sample()
    assert sampler.sampled == sampler.size == sampler.table.num_segments == 0
