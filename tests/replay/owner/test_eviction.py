"""Who leaves: by items the oldest of all, by bytes the oldest of a shard; and the ring of leaves beneath."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.items.frame_store import HostFrameStore
from replay.items.table import ItemTable
from replay.log import cursor
from replay.log.cursor import Memory
from replay.owner.eviction import HIGH_WATER, LOW_WATER
from replay.segments.codec import decode_header, encode
from replay.types import SegmentIdentity, Signature
from replay.writer import Writer
from tests.helpers.deadline import patient, until
from tests.helpers.replay.samplers import Run, ingest_all, new_run, servers
from tests.helpers.replay.streams import random_stream
from tests.helpers.shards.servers import make_segment, shared_urls

TINY = Signature(frame_shape=(1, 1), stack=2, n_step=3, num_actions=4)


@settings(max_examples=40, deadline=None)
@given(
    capacity=st.integers(6, 40),
    lengths=st.sampled_from([(1, 2), (1, 2), (1, 1, 1, 2, 6), (6,), (1, 2, 3, 4, 5, 6)]),
    seed=st.integers(0, 2**32),
)
def test_the_ring_of_leaves(capacity: int, lengths: tuple[int, ...], seed: int) -> None:
    """Segments in, oldest or any out, several times round: places never overlap, masses are where they
    belong.

    Short segments have many columns that start no item: it is the ring that gets full with them.
    """
    table = ItemTable(capacity, 6, 3, HostFrameStore((1, 1), 0))
    live: deque[int] = deque()
    masses: dict[int, np.ndarray] = {}
    rng = np.random.default_rng(seed)
    for number in range(150):
        if live and rng.random() < 0.1:
            slot = live[int(rng.integers(len(live)))]
            live.remove(slot)
            table.remove(slot)
        num_items = int(rng.choice(lengths))
        while not table.has_room(num_items, num_items + 2, 10):
            assert table.oldest() == live[0]
            table.remove(live.popleft())
        segment = make_segment(number, num_items=num_items, signature=TINY)
        header = decode_header(encode(segment, "run", TINY))
        new = np.arange(1.0, num_items + 1) + number
        slot = table.insert(segment, header, new, shard_index=number % 2, log_id="1-0", num_bytes=10)
        live.append(slot)
        masses[slot] = new
        check_table(table, live, masses)


def check_table(table: ItemTable, live: deque[int], masses: dict[int, np.ndarray]) -> None:
    assert table.in_order().tolist() == list(live)
    assert table.size == sum(len(masses[slot]) for slot in live) <= table.capacity
    assert table.num_segments == len(live)
    used = np.concatenate([table.leaves(slot) for slot in live]) if live else np.empty(0)
    assert len(np.unique(used)) == len(used)
    expected, slots = np.zeros(table.num_leaves), np.full(table.num_leaves, -1)
    for slot in live:
        leaves = table.leaves(slot)
        expected[leaves[: len(masses[slot])]] = masses[slot]
        slots[leaves] = slot
    assert (table.index.masses() == expected).all()
    assert (table.leaf_slots == slots).all()
    for shard in range(2):
        own = [slot for slot in live if table.slots["shard"][slot] == shard]
        assert table.oldest(shard) == (own[0] if own else None)


def test_full_segments_fill_the_whole_capacity() -> None:
    """Holes and extra columns aside: with segments of the configured length nothing leaves early."""
    table = ItemTable(60, 6, 3, HostFrameStore((1, 1), 0))
    for number in range(100):
        segment = make_segment(number, num_items=6, signature=TINY)
        if number >= 10:
            assert not table.has_room(6, 8, 1)
            oldest = table.oldest()
            assert oldest is not None
            table.remove(oldest)
        assert table.has_room(6, 8, 1)
        header = decode_header(encode(segment, "run", TINY))
        table.insert(segment, header, np.ones(6), shard_index=0, log_id="1-0", num_bytes=1)
        assert table.size == min(60, 6 * (number + 1))


def present(run: Run) -> set[SegmentIdentity]:
    """Segments whose keys are in Redis, checked to be exactly those in the logs."""
    kept = set()
    for shard in run.shards:
        logged = {entry.identity for entry in shard.read_log("0-0", 10_000)}
        client = redis.Redis.from_url(run.urls[shard.index])
        prefix = f"apexpert:{{{run.name}:{shard.index}}}:seg:"
        keys = [key.decode() for key in client.scan_iter(match=prefix + "*", count=1000)]
        assert {SegmentIdentity.parse(key.removeprefix(prefix)) for key in keys} == logged
        kept |= logged
    return kept


@pytest.mark.parametrize("found_by", ["draw", "restore"])
def test_entries_of_lost_segments_leave_with_their_neighbours(found_by: str) -> None:
    """Else they would stay at the log's head, before which readers know that everything has left."""
    urls = shared_urls()[:1]
    run = new_run(urls, capacity=100, frame_store_bytes=0)
    damaged, gone, *_ = run.fill(0, 100, actor=0, end=0.0)
    # With 2 strata an item on average, every item is drawn.
    sampler = run.sampler(batch_size=200)
    ingest_all(sampler)
    state = sampler.state()
    with redis.Redis.from_url(urls[0]) as client:
        prefix = f"apexpert:{{{run.name}:0}}:seg:"
        client.setrange(f"{prefix}{damaged.identity}", 40, b"\0" * 1000)
        client.unlink(f"{prefix}{gone.identity}")
    if found_by == "restore":
        sampler = run.sampler(batch_size=200)
        sampler.restore(*state)
    sampler.sample()
    assert sampler.size == 100 - damaged.num_items - gone.num_items
    run.fill(0, 100, actor=1)
    ingest_all(sampler)
    sampler.refresh_allowance()
    table = sampler.table
    assert present(run) == set(table.identities(table.in_order()))


def test_by_items_the_oldest_of_all_shards_leave() -> None:
    run = new_run(shared_urls(), capacity=200)
    sampler = run.sampler()
    order: list[SegmentIdentity] = []
    for actor in range(15):
        order += [segment.identity for segment in run.fill(actor % 3, 40, actor=actor)]
        ingest_all(sampler)
        held = [sampler.table.identity(slot) for slot in sampler.table.in_order().tolist()]
        assert held == order[len(order) - len(held) :]
        next_oldest = order[-len(held) - 1] if len(held) < len(order) else None
        room = 200 - sampler.size
        assert room >= 0
        assert next_oldest is None or room < 40 + 16
        assert present(run) == set(held)
        run.check(sampler, sampler.sample())
    assert sampler.metrics()["replay/evicted"] == 600 - sampler.size
    assert sampler.metrics()["replay/missing"] == 0


@pytest.fixture(scope="module")
def small_urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with servers(tmp_path_factory.mktemp("servers"), shards=2, maxmemory=24 * 1024**2) as started:
        yield started.urls


def big_frames_run(urls: list[str]) -> Run:
    """Random 84x84 frames do not compress: 16 steps are about 140 kB."""
    run = new_run(urls, frame_store_bytes=0)
    run.signature = Signature((84, 84), 4, 3, 4)
    return run


def test_by_bytes_the_oldest_of_the_full_shard_leave(
    small_urls: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A real writer runs a server full and waits; the sampler makes room, and all of the data comes in."""
    run = big_frames_run(small_urls)
    small = run.record(random_stream(1, 60, frame_shape=(84, 84), end=0.0), actor=7)
    run.write(small, 1)
    segments = run.record(random_stream(2, 4000, frame_shape=(84, 84), end=0.0), actor=0)
    total = sum(segment.num_items for segment in segments)
    stop = threading.Event()
    shards = run.shards_again()[:1]
    writer = Writer(shards, run=run.name, signature=run.signature, should_stop=stop.is_set)
    thread = threading.Thread(target=lambda: [writer.write(segment) for segment in segments], daemon=True)
    thread.start()
    try:
        sampler = run.sampler()
        until(lambda: (sampler.ingest(8), sampler.inserted == total + 60)[1], "all segments to come in", 60.0)
    finally:
        stop.set()
        thread.join(patient(10))
    used, maximum = run.shards[0].administration.memory()
    assert maximum == 24 * 1024**2
    assert used < maximum
    assert "over 90 %" in caplog.text
    table = sampler.table
    held = {table.identity(slot) for slot in table.in_order().tolist()}
    assert {segment.identity for segment in small} <= held  # the other shard has room
    newest = [segment.identity for segment in segments if segment.identity in held]
    assert newest == [segment.identity for segment in segments[-len(newest) :]]
    assert 20 < len(newest) < len(segments) - 20
    assert sampler.metrics()["replay/evicted"] == total + 60 - sampler.size
    assert present(run) == held
    for _ in range(5):
        run.check(sampler, sampler.sample())
    assert sampler.metrics()["replay/missing"] == 0


def test_by_encoded_bytes_the_oldest_of_all_shards_leave() -> None:
    run = new_run(shared_urls(), capacity_bytes=20_000)
    sampler = run.sampler()
    order: list[SegmentIdentity] = []
    sizes = {}
    for actor in range(15):
        for segment in run.fill(actor % 3, 40, actor=actor):
            order.append(segment.identity)
            sizes[segment.identity] = len(encode(segment, run.name, run.signature))
        ingest_all(sampler)
        held = [sampler.table.identity(slot) for slot in sampler.table.in_order().tolist()]
        assert held == order[len(order) - len(held) :]
        used = sum(sizes[identity] for identity in held)
        assert used == sampler.table.num_bytes <= 20_000
        assert len(held) == len(order) or used + sizes[order[-len(held) - 1]] > 20_000 - max(sizes.values())
        assert present(run) == set(held)
        run.check(sampler, sampler.sample())
    assert sampler.metrics()["replay/evicted"] == 600 - sampler.size > 0
    largest = max(sizes[identity] for identity in held)
    run.config = replace(run.config, capacity_bytes=largest - 1)
    smaller = run.sampler()
    smaller.rebuild()
    assert smaller.table.num_bytes < largest
    too_large = [identity for identity in held if sizes[identity] == largest]
    assert smaller.metrics()["replay/rejected_indexed"] == len(too_large)


def test_a_run_frees_its_share_of_what_is_too_much() -> None:
    """Another run that holds three times as much frees three times as much."""
    run = new_run(shared_urls())
    sampler = run.sampler()
    for actor in range(20):
        run.fill(0, 100, actor=actor)
    ingest_all(sampler)
    table, eviction = sampler.table, sampler._indexer.eviction
    own = table.bytes_of(0)
    assert own == table.num_bytes > 0 == table.bytes_of(1)
    too_much = 0.3 * own
    eviction.relieve({0: Memory(4 * own, int((4 * own - too_much) / LOW_WATER))})
    largest = int(table.slots["num_bytes"].max())
    assert too_much / 4 <= own - table.num_bytes <= too_much / 4 + largest
    assert 0 in eviction.due([0])  # whether the others did their part shows at the next look
    eviction.relieve({0: Memory(4 * own, int(4 * own / HIGH_WATER) + 1)})
    assert 0 not in eviction.due([0])
    while table.num_segments:
        before = table.num_segments
        eviction.relieve({0: Memory(10**9, 10**6)})  # next to nothing of it is its own
        assert table.num_segments < before
    eviction.relieve({0: Memory(10**9, 10**6)})
    assert 0 not in eviction.due([0])


def test_memory_is_looked_at_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(shared_urls())
    sampler = run.sampler()
    polls: list[float] = []
    memory = cursor._memory
    monkeypatch.setattr(cursor, "_memory", lambda text: (polls.append(time.monotonic()), memory(text))[1])
    for _ in range(50):
        sampler.ingest()
    assert 3 <= len(polls) <= 3 * (2 + int(polls[-1] - polls[0]))
