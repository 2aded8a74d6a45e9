"""A restored sampler goes on bit for bit, on real servers; or says what is gone."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import redis

from replay.sampler import RestoreReport, Sampler
from replay.types import Batch
from tests.helpers.replay.samplers import Run, ingest_all, new_run, same_batches
from tests.helpers.shards.commands import unlink
from tests.helpers.shards.servers import shared_urls


@pytest.fixture(scope="module")
def urls() -> list[str]:
    return shared_urls()


def through_a_file(sampler: Sampler, folder: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A sampler's state as a checkpoint's files give it back."""
    document, arrays = sampler.state()
    np.savez(folder / "state.npz", **arrays)
    with np.load(folder / "state.npz") as loaded:
        return json.loads(json.dumps(document)), dict(loaded)


def train(sampler: Sampler, updates: int) -> list[Batch]:
    """Updates with priorities that only the batch determines."""
    batches = []
    for _ in range(updates):
        batch = sampler.sample()
        batches.append(batch)
        priorities = np.abs(np.sin(batch.leaf * 0.37 + batch.reward)) * 3.0
        sampler.update_priorities(batch.leaf, batch.generation, priorities)
    return batches


def busy(run: Run, first: int, sampler: Sampler) -> None:
    """Three shards' worth of data, with training, evictions and a hole in the ring."""
    for actor in range(first, first + 6):
        run.fill(actor % 3, 70, actor=actor)
        ingest_all(sampler)
        (batch,) = train(sampler, 1)
        for priority in (400.0 + actor, 0.1):  # the largest priority so far is of no item any more
            sampler.update_priorities(batch.leaf, batch.generation, np.full(32, priority))
        train(sampler, 3)


def make_holes(run: Run, sampler: Sampler) -> None:
    """The newest segment and one before it disappear from Redis, and the sampler finds out."""
    for slot in sampler.table.in_order()[[-1, -4]].tolist():
        shard, identity = int(sampler.table.slots["shard"][slot]), sampler.table.identity(slot)
        unlink(run.shards[shard], [identity])
    before = sampler.metrics()["replay/missing"]
    while sampler.metrics()["replay/missing"] < before + 2:
        train(sampler, 1)


@pytest.mark.parametrize("store_bytes", [None, 900, 0])
def test_it_goes_on_exactly(
    urls: list[str], tmp_path: Any, store_bytes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(urls, capacity=300)
    sampler = run.sampler(store_bytes=store_bytes)
    busy(run, 0, sampler)
    if store_bytes == 0:
        make_holes(run, sampler)
    state = through_a_file(sampler, tmp_path)
    restored = run.sampler(store_bytes=store_bytes, seed=12345)
    report = restored.restore(*state)
    assert report == RestoreReport(exact=True, dropped=0, items=sampler.size)
    # Both are to find the same logs: one of them deletes nothing.
    monkeypatch.setattr(sampler._indexer.pending_deletions, "_deletes", False)
    for first in (6, 12):
        for one, other in zip(train(sampler, 10), train(restored, 10), strict=True):
            assert same_batches(one, other)
            run.check(restored, other)
        assert same_state(sampler, restored)
        for actor in range(first, first + 6):
            run.fill(actor % 3, 40, actor=actor)
        assert taken_over(sampler) == taken_over(restored) == 240
        assert sampler.table.index.total == restored.table.index.total
    assert sampler.metrics()["replay/evicted"] > 0


def taken_over(sampler: Sampler) -> int:
    """Items that come in once the sampler has taken the shards from the other one."""
    sampler.take_ownership()
    return ingest_all(sampler)


def same_state(one: Sampler, other: Sampler) -> bool:
    (document, arrays), (other_document, other_arrays) = one.state(), other.state()
    same_arrays = all(np.array_equal(arrays[name], other_arrays[name]) for name in arrays)
    return same_arrays and json.dumps(document) == json.dumps(other_document)


def test_what_came_after_the_checkpoint_is_ingested(urls: list[str], tmp_path: Any) -> None:
    run = new_run(urls)
    sampler = run.sampler()
    busy(run, 0, sampler)
    state = through_a_file(sampler, tmp_path)
    inserted = sampler.inserted
    run.fill(1, 55, actor=90)
    ingest_all(sampler)
    restored = run.sampler()
    restored.restore(*state)
    assert restored.inserted == inserted
    assert ingest_all(restored) == 55
    assert ingest_all(restored) == 0
    assert restored.inserted == inserted + 55
    assert restored.metrics()["replay/duplicates"] == 0


def test_what_is_gone_is_dropped(urls: list[str], tmp_path: Any) -> None:
    run = new_run(urls)
    sampler = run.sampler()
    busy(run, 0, sampler)
    state = through_a_file(sampler, tmp_path)
    gone = list(run.segments)[2:9:3]
    damaged = list(run.segments)[11]
    for identity in gone:
        unlink(run.shards[run.shard_of[identity]], [identity])
    client = redis.Redis.from_url(urls[run.shard_of[damaged]])
    client.setrange(f"apexpert:{{{run.name}:{run.shard_of[damaged]}}}:seg:{damaged}", 40, b"\x00\x01")
    restored = run.sampler()
    report = restored.restore(*state)
    dropped = sum(len(run.items[identity]) for identity in (*gone, damaged))
    assert report == RestoreReport(False, dropped, sampler.size - dropped, len(gone), 1)
    assert restored.size == report.items
    assert restored.metrics()["replay/missing"] == len(gone)
    assert restored.metrics()["replay/rejected"] == 1
    lost = {*gone, damaged}
    kept = [slot for slot in sampler.table.in_order().tolist() if sampler.table.identity(slot) not in lost]
    masses = np.concatenate([sampler.table.index.mass(sampler.table.leaves(slot)) for slot in kept])
    own = restored.table.in_order().tolist()
    assert (
        np.concatenate([restored.table.index.mass(restored.table.leaves(s)) for s in own]) == masses
    ).all()
    for batch in train(restored, 10):
        run.check(restored, batch)


def test_a_shard_without_segments_has_evicted_them_only_if_its_log_goes_on(
    urls: list[str], tmp_path: Any
) -> None:
    """As after a restart from an older checkpoint, and as after the loss of a server's file."""
    run = new_run(urls)
    sampler = run.sampler()
    for shard in range(3):
        run.fill(shard, 70, actor=shard)
    ingest_all(sampler)
    state = through_a_file(sampler, tmp_path)
    run.fill(0, 70, actor=7)
    gone = [identity for identity in run.segments if identity.actor in (0, 1)]
    for identity in gone:
        unlink(run.shards[run.shard_of[identity]], [identity])
    client = redis.Redis.from_url(urls[1])
    client.delete(*client.keys(f"apexpert:{{{run.name}:1}}:*"))
    before = sampler.metrics()
    restored = run.sampler()
    restored.restore(*state)
    after = restored.metrics()
    items = [sum(len(run.items[i]) for i in gone if i.actor == actor) for actor in (0, 1)]
    segments = sum(identity.actor == 1 for identity in gone)
    assert after["replay/evicted"] - before["replay/evicted"] == items[0]
    assert after["replay/missing"] - before["replay/missing"] == segments
    assert after["replay/lost"] - before["replay/lost"] == items[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda config: replace(config, capacity=150),
        lambda config: replace(config, capacity=4000),
        lambda config: replace(config, n_step=1),
        lambda config: replace(config, segment_steps=8),
    ],
)
def test_another_layout_keeps_the_newest_that_fit(
    urls: list[str], tmp_path: Any, change: Callable[[Any], Any]
) -> None:
    run = new_run(urls, capacity=300)
    sampler = run.sampler()
    busy(run, 0, sampler)
    state = through_a_file(sampler, tmp_path)
    order = [sampler.table.identity(slot) for slot in sampler.table.in_order().tolist()]
    run.config = change(run.config)
    run.signature = replace(run.signature, n_step=run.config.n_step)
    restored = run.sampler()
    report = restored.restore(*state)
    assert not report.exact
    assert report.items == restored.size == sampler.size - report.dropped
    kept = [restored.table.identity(slot) for slot in restored.table.in_order().tolist()]
    assert kept == order[len(order) - len(kept) :]
    longest = 16
    assert report.dropped == 0 or run.config.capacity - longest < restored.size <= run.config.capacity
    if run.config.n_step == 3:
        for batch in train(restored, 5):
            run.check(restored, batch)


def test_uniform_after_prioritized(urls: list[str], tmp_path: Any) -> None:
    run = new_run(urls, capacity=300)
    sampler = run.sampler()
    busy(run, 0, sampler)
    run.config = replace(run.config, prioritized=False)
    restored = run.sampler()
    restored.restore(*through_a_file(sampler, tmp_path))
    run.fill(0, 20, actor=50)
    ingest_all(restored)
    assert set(restored.table.index.masses()) == {0.0, 1.0}
    assert restored.table.index.total == restored.size


def test_without_a_checkpoint_the_logs_are_indexed(urls: list[str]) -> None:
    run = new_run(urls, capacity=500)
    for actor in range(9):
        run.fill(actor % 3, 30 + actor, actor=actor)
    run.write(list(run.segments.values())[:3], 2)  # copies
    sampler = run.sampler()
    assert sampler.rebuild() == sampler.size == sum(map(len, run.items.values()))
    assert sampler.ingest() == 0
    for batch in train(sampler, 5):
        run.check(sampler, batch)


def test_only_an_empty_sampler_is_restored(urls: list[str], tmp_path: Any) -> None:
    run = new_run(urls)
    sampler = run.sampler()
    busy(run, 0, sampler)
    with pytest.raises(ValueError, match="ingested nothing"):
        sampler.restore(*through_a_file(sampler, tmp_path))


def test_a_replay_that_is_gone_is_filled_before_the_next_draw(urls: list[str], tmp_path: Any) -> None:
    run = new_run(urls, min_size=200)
    sampler = run.sampler()
    for actor in range(3):
        run.fill(actor, 100, actor=actor)
    ingest_all(sampler)
    train(sampler, 3)
    state = through_a_file(sampler, tmp_path)
    for shard in range(3):
        unlink(run.shards[shard], [i for i, place in run.shard_of.items() if place == shard])
    restored = run.sampler()
    report = restored.restore(*state)
    assert (report.exact, report.items, report.refill) == (False, 0, 200)
    assert restored.metrics()["replay/refill"] == 200
    run.fill(0, 150, actor=7)
    assert ingest_all(restored) == 150
    assert not restored.can_sample()
    run.fill(1, 50, actor=8)
    ingest_all(restored)
    assert restored.can_sample()
    assert restored.metrics()["replay/refill"] == 0
    # A restart knows what they did not earn, and asks for no more.
    again = run.sampler()
    assert again.restore(*through_a_file(restored, tmp_path)).refill == 0
    assert again.counters.unearned == restored.counters.unearned > 0
