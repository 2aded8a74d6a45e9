"""Samplers that only read: beside a live owner, on a finished run, with and without a checkpoint."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from replay.errors import NotEnoughData
from replay.reader import ReplayReader
from replay.sampler import Sampler
from replay.types import Segment, SegmentIdentity
from replay.writer import Writer
from tests.helpers.deadline import patient, until
from tests.helpers.replay.samplers import Run, ingest_all, located, new_run, same_batches
from tests.helpers.replay.streams import random_stream
from tests.helpers.shards.commands import unlink
from tests.helpers.shards.servers import shared_urls


@pytest.fixture(scope="module")
def urls() -> list[str]:
    return shared_urls()


def reader_of(run: Run, **changes: Any) -> ReplayReader:
    options: dict[str, Any] = {"run": run.name, "signature": run.signature, "seed": 7}
    return ReplayReader(run.config, run.shards_again(), **(options | changes))


def keys_of(run: Run) -> dict[bytes, bytes]:
    """Everything that the servers hold of the run."""
    found = {}
    for url in run.urls:
        client = redis.Redis.from_url(url)
        for key in client.scan_iter(f"apexpert:{{{run.name}:*", count=10_000):
            found[key] = client.dump(key)
    return found


def masses(sampler: Sampler | ReplayReader) -> dict[SegmentIdentity, list[float]]:
    table = sampler.table
    return {name: table.masses(table.item_leaves([slot])).tolist() for name, slot in table.slot_of.items()}


def with_priorities(segments: list[Segment], seed: int) -> list[Segment]:
    rng = np.random.default_rng(seed)
    return [replace(s, priorities=rng.gamma(0.5, size=s.num_items).astype(np.float32)) for s in segments]


def test_it_changes_nothing_and_draws_as_the_owner(urls: list[str]) -> None:
    """By the priorities that the actors gave: the owner's distribution before any update."""
    run = new_run(urls)
    for actor in range(6):
        segments = run.record(random_stream(actor, 60), actor=actor)
        run.write(with_priorities(segments, actor), actor % 3)
    run.write(list(run.segments.values())[:2], 2)  # copies, for the owner to delete
    owner = run.sampler()
    before = keys_of(run)
    reader = reader_of(run)
    with pytest.raises(NotEnoughData):
        reader.sample(32)
    while reader.ingest(20):
        pass
    assert keys_of(run) == before
    assert reader.metrics()["replay/duplicates"] == 2
    ingest_all(owner)
    owner._priorities.random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(7)))
    assert masses(reader) == masses(owner)
    assert reader.size == owner.size == 360
    for _ in range(20):
        batch = reader.sample(32)
        run.check(reader, batch)  # type: ignore[arg-type]
        assert same_batches(batch, owner.sample())
    kept = keys_of(run)
    for _ in range(3):
        reader.ingest()
        reader.sample(32)
    assert keys_of(run) == kept
    reader.close()


def test_with_a_checkpoint_it_draws_by_its_priorities(urls: list[str]) -> None:
    run = new_run(urls)
    for actor in range(6):
        run.fill(actor % 3, 60, actor=actor)
    owner = run.sampler()
    ingest_all(owner)
    for _ in range(20):
        batch = owner.sample()
        owner.update_priorities(batch.leaf, batch.generation, np.abs(np.sin(batch.leaf)) + 0.1)
    document, arrays = owner.state()
    run.fill(1, 40, actor=30)
    ingest_all(owner)
    before = keys_of(run)
    reader = reader_of(run)
    assert reader.restore(document, arrays).exact
    assert reader.size == 360
    while reader.ingest():
        pass
    assert keys_of(run) == before
    assert masses(reader) == masses(owner)
    counts = dict.fromkeys(((name, i) for name, items in masses(owner).items() for i in range(len(items))), 0)
    for _ in range(300):
        batch = reader.sample(32)
        for key in located(reader, batch):  # type: ignore[arg-type]
            counts[key] += 1
    expected = np.array([mass for items in masses(owner).values() for mass in items])
    expected *= 300 * 32 / expected.sum()
    observed = np.array(list(counts.values()))
    assert np.abs(observed - expected).max() < 6 * np.sqrt(expected.max())
    assert reader.metrics()["replay/stale_updates"] == 0


def test_beside_a_live_owner_it_follows_and_drops_what_was_evicted(urls: list[str]) -> None:
    run = new_run(urls, capacity=200)
    owner, reader = run.sampler(), reader_of(run)
    segments = run.record(random_stream(3, 1200), actor=0)
    stop = threading.Event()
    writer = Writer(run.shards_again(), run=run.name, signature=run.signature, should_stop=stop.is_set)
    thread = threading.Thread(target=lambda: [writer.write(segment) for segment in segments], daemon=True)
    thread.start()
    try:

        def follow() -> bool:
            owner.ingest()
            reader.ingest()
            if reader.size:
                run.check(reader, reader.sample(32))  # type: ignore[arg-type]
            return owner.inserted == 1200

        until(follow, "everything", 60.0, pause=0.001)
    finally:
        stop.set()
        thread.join(patient(10))
    ingest_all(owner)
    while reader.ingest():
        pass
    reader.drop_evicted()
    followed, owned = masses(reader), masses(owner)
    assert followed.items() <= owned.items()
    # Each evicts what it met first, and shards are not met in one order by both.
    assert owned.keys() - followed.keys() <= set(sorted(owned)[:8])
    # What left before the reader looked, it never saw.
    assert owner.size <= reader.metrics()["replay/inserted"] <= 1200
    assert not [shard.tickets().outstanding for shard in run.shards if shard.tickets().outstanding]


def test_many_read_at_once_and_none_becomes_the_owner(urls: list[str]) -> None:
    run = new_run(urls)
    run.fill(0, 60, actor=0)
    owner = run.sampler()
    ingest_all(owner)
    notes = [shard.owning.owner() for shard in run.shards]
    readers = [reader_of(run, seed=seed) for seed in range(5)]
    for reader in readers:
        while reader.ingest():
            pass
        run.check(reader, reader.sample(32))  # type: ignore[arg-type]
    owner.ingest()
    assert [shard.owning.owner() for shard in run.shards] == notes


def test_what_vanishes_while_it_is_drawn_is_drawn_anew(urls: list[str], tmp_path: Path) -> None:
    run = new_run(urls, frame_store_bytes=0)
    gone, kept = run.fill(0, 60, actor=0), run.fill(1, 60, actor=1)
    reader = reader_of(run)
    while reader.ingest():
        pass
    unlink(run.shards[0], [segment.identity for segment in gone])
    for _ in range(5):
        batch = reader.sample(32)
        run.check(reader, batch)  # type: ignore[arg-type]
        drawn = {name for name, _ in located(reader, batch)}  # type: ignore[arg-type]
        assert drawn <= {segment.identity for segment in kept}


def test_a_copy_is_read_where_the_first_entry_has_no_segment(urls: list[str]) -> None:
    run = new_run(urls)
    (first, *_) = segments = run.fill(0, 60, actor=0)
    run.write([first], 1)
    unlink(run.shards[0], [first.identity])
    found = [segment.identity for segment in reader_of(run).segments()]
    assert sorted(found) == sorted(segment.identity for segment in segments)


def test_closing_ends_the_threads(urls: list[str]) -> None:
    run = new_run(urls, frame_store_bytes=0)
    run.fill(0, 60, actor=0)
    before = set(threading.enumerate())
    sampler, reader = run.sampler(), reader_of(run)
    sampler.ingest()
    sampler.sample()
    reader.ingest()
    reader.sample(32)
    started = set(threading.enumerate()) - before
    assert len(started) >= 2
    sampler.close()
    reader.close()
    assert not [thread for thread in started if thread.is_alive()]
