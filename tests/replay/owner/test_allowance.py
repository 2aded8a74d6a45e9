"""The allowance on real servers: how many items writers may bring, and when one may come all the same."""

import threading
from collections.abc import Mapping

import pytest

from replay.errors import WriterStopped
from replay.log.cursor import UNKNOWN_PENDING, Poll
from replay.log.reader import LogReader
from replay.owner.limiter import Allowance, Limiter
from replay.shards.pipeline import ShardPipeline
from replay.shards.records import TicketBook
from replay.shards.shard import LOG_START, Shard
from replay.types import SegmentIdentity
from replay.writer import Writer
from tests.helpers.deadline import until
from tests.helpers.replay.limiting import SEGMENT, limiter
from tests.helpers.shards.commands import reserve
from tests.helpers.shards.servers import SIGNATURE, make_segment


def test_real_tickets_keep_the_ratio(shards: list[Shard], run_name: str) -> None:
    """Writers in threads, one killed with its ticket in hand; the owner here samples as fast as it may."""
    rules = limiter(64, 4.0, 32, 100.0, total_env_steps=1200)
    reader = LogReader(shards, run=run_name, signature=SIGNATURE)
    allowance = Allowance(reader.cursors, rules)
    stop = threading.Event()
    num_writers, inserted, samples = 4, 0, 0

    def act(actor: int) -> None:
        writer = Writer(shards, run=run_name, signature=SIGNATURE, first_shard=actor, should_stop=stop.is_set)
        seq = 0
        while not stop.is_set():
            try:
                writer.write(make_segment(seq, actor=actor, num_items=SEGMENT))
            except WriterStopped:
                return
            seq += 1

    reserve(shards[0], SegmentIdentity(9, 0, 0), SEGMENT)  # never committed: this incarnation dies
    threads = [threading.Thread(target=act, args=(actor,)) for actor in range(num_writers)]
    for thread in threads:
        thread.start()

    def owner() -> bool:
        nonlocal inserted, samples
        polls = reader.poll(4)
        inserted += sum(received.segment.num_items for received in reader.take(polls))
        assert inserted <= rules.max_inserts(samples) + num_writers * SEGMENT
        if rules.can_sample(inserted, samples):
            samples += 32
            assert inserted * 4.0 - samples >= 64 * 4.0 - 100
        allowance.refresh(books_of(polls), inserted, samples, {(9, 0)})
        return inserted >= 1200

    try:
        until(owner, "1200 items", seconds=30, pause=0.0)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    logged = sum(entry.num_items for shard in shards for entry in shard.read_log(LOG_START, 1000))
    assert 1200 <= logged <= 1200 + num_writers * SEGMENT


def books_of(polls: Mapping[int, Poll]) -> dict[int, TicketBook]:
    return {shard: poll.book for shard, poll in polls.items()}


def test_backlog_is_not_granted_again(shards: list[Shard], run_name: str) -> None:
    """Committed segments that the owner has not read yet count, however many they are."""
    for seq in range(300):
        shards[0].writing.commit(SegmentIdentity(0, 0, seq), b"x", SEGMENT, SEGMENT)
    waiting = SegmentIdentity(1, 0, 0)
    ticket, _ = reserve(shards[1], waiting, SEGMENT)
    reader = LogReader(shards, run=run_name, signature=SIGNATURE)
    allowance = Allowance(reader.cursors, limiter(3000))
    polls = reader.poll(100)
    assert [poll.book.pending for poll in polls.values()] == [UNKNOWN_PENDING, 0]
    reader.take(polls)
    allowance.refresh(books_of(polls), 400, 0)
    assert settled(reader, shards[1]) <= ticket - SEGMENT  # there is more: it cannot know how much
    polls = reader.poll(1000)
    reader.take(polls)
    allowance.refresh(books_of(polls), 2400, 0)
    assert settled(reader, shards[1]) > ticket - SEGMENT


def test_one_segment_may_come_where_nothing_is_left_to_draw(shards: list[Shard], run_name: str) -> None:
    tickets = [reserve(shard, SegmentIdentity(0, 0, i), SEGMENT)[0] for i, shard in enumerate(shards)]
    reader = LogReader(shards, run=run_name, signature=SIGNATURE)
    edge = limiter().max_inserts(0)

    def granted(rules: Limiter, *, empty: bool) -> int:
        Allowance(reader.cursors, rules).refresh(books_of(reader.poll(10)), edge, 0, empty=empty)
        ends = zip(shards, tickets, strict=True)
        return sum(settled(reader, shard) > end - SEGMENT for shard, end in ends)

    assert granted(limiter(), empty=False) == 0
    assert granted(limiter(total_env_steps=edge), empty=True) == 0  # the run has all it wanted
    assert granted(limiter(), empty=True) == 1


def settled(reader: LogReader, shard: Shard) -> int:
    """Return what a shard allows once it has heard everything."""
    for cursor in reader.cursors:
        cursor.pipeline.settle()
    return shard.tickets().allowed


def test_nothing_new_sends_nothing(shards: list[Shard], run_name: str) -> None:
    reserve(shards[0], SegmentIdentity(0, 0, 0), SEGMENT)
    reader = LogReader(shards, run=run_name, signature=SIGNATURE)
    allowance = Allowance(reader.cursors, limiter())
    for _ in range(3):  # to rest
        allowance.refresh(books_of(reader.poll(10)), 0, 0)

    def reads() -> list[int]:
        return [int(shard.client.info("stats")["total_reads_processed"]) for shard in shards]

    before = reads()
    for _ in range(10):
        allowance.refresh(books_of(reader.poll(10)), 0, 0)
    assert [after - start for after, start in zip(reads(), before, strict=True)] == [11, 11]  # and the INFO


def test_what_could_not_be_sent_is_sent_again(
    shards: list[Shard], run_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if nothing else changes: the connection may break while the allowance is sent."""
    ticket, _ = reserve(shards[0], SegmentIdentity(0, 0, 0), SEGMENT)
    reader = LogReader(shards, run=run_name, signature=SIGNATURE)
    allowance, books = Allowance(reader.cursors, limiter()), books_of(reader.poll(10))
    with monkeypatch.context() as broken:
        broken.setattr(ShardPipeline, "tell", lambda self, request, outcome: outcome(None))
        allowance.refresh(books, 0, 0)
    assert settled(reader, shards[0]) == 0
    allowance.refresh(books, 0, 0)
    assert settled(reader, shards[0]) >= ticket
