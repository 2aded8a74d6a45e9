"""Anything in a run's keys on a real server: nothing crashes, what is right is read, the rest is counted."""

import json
import logging
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import ShardError, SignatureMismatch
from replay.log.reader import LogReader, ReceivedSegment
from replay.log.rejections import REJECTED
from replay.segments.header import MAX_STEPS
from replay.shards.records import parse_entry, parse_ticket
from replay.types import SegmentIdentity
from tests.helpers.replay.fuzzing import log_fields
from tests.helpers.replay.hostile_log import KINDS, HostileLog
from tests.helpers.replay.samplers import Run, new_run
from tests.helpers.shards.commands import read_new
from tests.helpers.shards.faulty_servers import Scribe, quiet
from tests.helpers.shards.servers import SIGNATURE, fresh_run, make_shards, same_segment, shared_urls

NAMES = st.sampled_from([b"id", b"n", b"s", b"b", b"x"])
NUMBERS = st.sampled_from(
    [b"0", b"-1", b"8", b"1e3", b"9" * 5000, b"1_0", b" 8", b"\xff", b"", b"2147483648"]
)
IDS = st.sampled_from([b"0.0.1", b"0.0.01", b"-1.0.0", b"0.0", b"0.0.0.0", b"a.b.c", b"\xc2\xb2.0.0"])
ROWS = st.dictionaries(NAMES, NUMBERS | IDS | st.binary(max_size=20), min_size=1)
THINGS = st.tuples(st.sampled_from(KINDS) | st.just("good"), st.binary(max_size=60), ROWS)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
SIGNATURES = st.fixed_dictionaries(
    {"frame_shape": JSON | st.just([6, 5]), "stack": JSON, "n_step": JSON, "num_actions": JSON | st.just(4)}
)
META = st.binary(max_size=40) | (JSON | SIGNATURES).map(json.dumps).map(str.encode)
HOSTILE_META = st.sampled_from([b"[" * 100_000, b'{"frame_shape":[1e999,1]}', b"9" * 5000])


@contextmanager
def hostile_run() -> Iterator[HostileLog]:
    """A run of one shard, whose keys are gone afterwards."""
    run = fresh_run()
    (shard,) = make_shards(1, run=run)
    hostile = HostileLog(shard, run)
    try:
        yield hostile
    finally:
        hostile.clean_up()
        shard.close()


def reader_of(hostile: HostileLog) -> LogReader:
    return LogReader([hostile.shard], run=hostile.run, signature=SIGNATURE)


def read_all(reader: LogReader, limit: int) -> list[ReceivedSegment]:
    received, before = [], None
    while before != reader.positions:
        before = reader.positions
        received += read_new(reader, limit)
    return received


def refusal(call: Callable[[], object]) -> str:
    """Return a shard's objection to what it found, "" when it takes it."""
    try:
        call()
    except (ShardError, SignatureMismatch) as error:
        return str(error)
    return ""


def ours(fields: dict[bytes, bytes]) -> bool:
    return parse_entry(b"1-0", fields).identity is not None


@settings(deadline=None, max_examples=60)
@given(st.lists(THINGS, min_size=1, max_size=25), st.sampled_from([1, 3, 100]))
def test_every_kind_is_told_apart_and_the_rest_is_read(
    things: list[tuple[str, bytes, dict[bytes, bytes]]], limit: int
) -> None:
    with hostile_run() as hostile:
        for kind, noise, fields in things:
            hostile.put(kind, noise, None if ours(fields) else fields)
        reader = reader_of(hostile)
        received = read_all(reader, limit)
    assert [one.segment.identity for one in received] == [segment.identity for segment in hostile.good]
    assert all(same_segment(one.segment, put) for one, put in zip(received, hostile.good, strict=True))
    counted = {name: n for name, n in reader.counters.items() if n and name not in ("items", "bytes")}
    assert counted == dict(hostile.expected)
    assert (reader.ledger.lost_items, reader.ledger.unread_items) == (hostile.lost, 0)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(THINGS.filter(lambda thing: thing[0] != "good"), min_size=1, max_size=20),
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 11), st.sampled_from([1, 8, MAX_STEPS]))),
)
def test_accounts_of_honest_writers_are_exact_beside_any_rows(
    things: list[tuple[str, bytes, dict[bytes, bytes]]], foreseen: list[tuple[int, int, int]]
) -> None:
    """Also where rows name their segments before they do, and while the oldest segments leave."""
    run = new_run(shared_urls()[:2], capacity=100, segment_steps=8)
    sampler, scribes = run.sampler(store_bytes=0), [Scribe(run, 100, actor=actor) for actor in range(2)]
    hostile = HostileLog(run.shards[0], run.name, run.signature)
    for actor, seq, items in foreseen:
        hostile.foresee(SegmentIdentity(actor, 0, seq), items)
    sampler.rebuild()
    metrics = sampler.metrics()
    assert metrics["replay/missing"] == len(foreseen)
    assert (metrics["replay/lost"] <= MAX_STEPS * len(foreseen), metrics["replay/unread"]) == (True, 0)
    for kind, noise, fields in things:
        hostile.put(kind, noise, None if ours(fields) else fields)
        for scribe in scribes:
            scribe.write(1)
        sampler.ingest()
        run.check(sampler, sampler.sample())
    for scribe in scribes:
        scribe.write()
    quiet(sampler)
    metrics = sampler.metrics()
    assert metrics["replay/size"] + metrics["replay/evicted"] == sum(map(len, run.items.values()))
    assert (metrics["replay/lost"], metrics["replay/unread"]) == (hostile.lost, 0)
    assert metrics["replay/missing"] == len(foreseen) + hostile.expected["missing"]
    run.check(sampler, sampler.sample())
    assert stored(run) == set(sampler.table.slot_of)
    hostile.clean_up()
    sampler.close()


def stored(run: Run) -> set[SegmentIdentity]:
    """The honest writers' segments that the servers have."""
    return {name for name in run.segments for shard in run.shards if shard.fetch([name])[0] is not None}


def test_a_sampler_among_all_kinds_draws_only_what_is_right(caplog: pytest.LogCaptureFixture) -> None:
    run = new_run(shared_urls()[:2])
    run.fill(0, 150, actor=0)
    hostile = HostileLog(run.shards[0], run.name, run.signature)
    for repeat in range(12):
        for kind in KINDS:
            if kind not in ("good", "copy"):
                hostile.put(kind, bytes(range(repeat + 1)))
    run.fill(1, 150, actor=1)
    run.fill(0, 150, actor=2)
    sampler = run.sampler(store_bytes=0)
    caplog.set_level(logging.WARNING)
    sampler.rebuild()
    for _ in range(20):
        run.check(sampler, sampler.sample())
    hostile.clean_up()
    metrics = sampler.metrics()
    assert metrics["replay/size"] == sum(map(len, run.items.values()))
    assert metrics["replay/missing"] == hostile.expected["missing"]
    counted = {kind: int(metrics[f"replay/rejected_{kind}"]) for kind in REJECTED}
    assert counted == {kind: hostile.expected[kind] for kind in REJECTED}
    assert min(counted.values()) >= 12
    assert metrics["replay/rejected"] == sum(counted.values())
    # One line at the first of a kind, the 10th and the 100th.
    said = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(said) == sum(len(str(count)) for count in counted.values())
    for advice in ("continue with the version", "a --name of its own", "start a new run", "who else writes"):
        assert any(advice in line for line in said), advice


class TestMemory:
    def test_a_value_larger_than_its_row_says_is_not_read(self) -> None:
        with hostile_run() as hostile:
            for seq, size in enumerate([100, 2**31 - 1, 2**31 - 1]):
                identity = SegmentIdentity(5, 0, seq)
                hostile.client.setrange(hostile.shard.segment_key(identity), 50_000_000, b"x")
                hostile.client.xadd(hostile.log, log_fields(identity, 8, 10, size))
            for _ in range(200):  # one segment named again and again is read once
                hostile.client.xadd(hostile.log, log_fields(SegmentIdentity(5, 0, 1), 8, 10, 2**31 - 1))
            hostile.put("good")
            reader = reader_of(hostile)
            tracemalloc.start()
            received = read_all(reader, 1000)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert len(received) == 1
        assert reader.counters["corrupt"] == 203
        assert peak < 20_000_000

    def test_a_poll_takes_no_more_than_its_share_of_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with hostile_run() as hostile:
            for _ in range(12):
                hostile.put("good")
            pixels = SIGNATURE.frame_shape[0] * SIGNATURE.frame_shape[1]
            monkeypatch.setattr("replay.log.reader.POLL_FRAMES_BYTES", 5 * (4 + 10) * pixels)
            reader = reader_of(hostile)
            assert [len(read_new(reader, 100)) for _ in range(4)] == [5, 5, 2, 0]
            monkeypatch.setattr("replay.log.reader.POLL_BYTES", 1)
            reader = reader_of(hostile)
            assert [len(read_new(reader, 100)) for _ in range(13)] == [1] * 12 + [0]


class TestOtherKeys:
    @settings(deadline=None, max_examples=100)
    @given(META | HOSTILE_META)
    def test_any_signature_is_taken_or_refused_in_a_sentence(self, meta: bytes) -> None:
        with hostile_run() as hostile:
            hostile.client.set(hostile.shard.meta_key, meta)
            said = refusal(lambda: hostile.shard.check_meta(SIGNATURE))
        assert "\n" not in said
        assert not said or "start a new run" in said or "never raised" in said

    @settings(deadline=None, max_examples=60)
    @given(
        NUMBERS | st.binary(max_size=12), NUMBERS, st.dictionaries(IDS, st.binary(max_size=30), min_size=1)
    )
    def test_any_counters_and_tickets(
        self, allowed: bytes, reserved: bytes, tickets: dict[bytes, bytes]
    ) -> None:
        with hostile_run() as hostile:
            shard = hostile.shard
            hostile.client.mset({shard.allowed_key: allowed, shard.reserved_key: reserved})
            hostile.client.hset(shard.outstanding_key, mapping=tickets)
            said = refusal(shard.tickets)
            assert not said or "start a new run" in said
            book = () if said else shard.tickets().outstanding
        assert all(ticket.items > 0 and (ticket.end or 1) > 0 for ticket in book)

    @settings(deadline=None)
    @given(st.binary(max_size=40))
    def test_tickets_are_read_or_passed_over(self, value: bytes) -> None:
        for text in (value, b"8:0:" + value, b"8:" + value + b":"):
            ticket = parse_ticket(b"0.0.1", text)
            assert ticket is None or (0 < ticket.items < 2**31 and 0 <= ticket.attempt < 2**31)
        assert parse_ticket(b"0.0.1", b"8:0:%d" % 2**62) is None
        named = parse_ticket(value, b"8:0:8")
        assert named is None or str(named.identity).encode() == value

    def test_keys_of_another_type_are_told_in_a_line(self) -> None:
        with hostile_run() as hostile:
            shard = hostile.shard
            hostile.client.mset({shard.log: "x", shard.outstanding_key: "x"})
            hostile.client.hset(shard.meta_key, "a", "b")
            for call in (
                lambda: shard.read_log("0-0", 5),
                shard.tickets,
                lambda: shard.check_meta(SIGNATURE),
            ):
                assert "WRONGTYPE" in refusal(call)
