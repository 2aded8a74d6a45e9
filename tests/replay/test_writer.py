import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from replay.errors import ShardFull, ShardUnavailable, SignatureMismatch, WriterStopped
from replay.log.reader import LogReader
from replay.owner.limiter import Allowance, Limiter
from replay.segments.codec import encode
from replay.servers.embedded import EmbeddedServers
from replay.shards.shard import LOG_START, Shard
from replay.types import Segment, SegmentIdentity
from replay.writer import Writer, _WritableShard
from tests.helpers.deadline import patient, until
from tests.helpers.shards.commands import read_new, reserve, unlink
from tests.helpers.shards.servers import SIGNATURE, make_segment, same_segment, server_programs

FREE = 10**6


def make_writer(
    shards: list[Shard], run: str, first_shard: int = 0, should_stop: Callable[[], bool] = lambda: False
) -> Writer:
    return Writer(shards, run=run, signature=SIGNATURE, first_shard=first_shard, should_stop=should_stop)


def allow(shards: list[Shard], end: int = FREE) -> None:
    for shard in shards:
        shard.owning.set_allowed(end)


def logged(shards: list[Shard]) -> list[list[int]]:
    return [[e.identity.seq if e.identity else -1 for e in s.read_log(LOG_START, 1000)] for s in shards]


def two_tickets(shard: Shard) -> bool:
    """Two tickets are taken and their ends noted, which is a writer's second word on one."""
    ends = [ticket.end for ticket in shard.tickets().outstanding]
    return len(ends) == 2 and None not in ends


@contextmanager
def in_background(work: Callable[[], object]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(patient(30))
        assert not thread.is_alive()


def test_a_writer_keeps_one_connection_a_shard(tmp_path: Path) -> None:
    servers = EmbeddedServers(tmp_path / "replay", shards=2, append_fsync="everysec", maxmemory=0)
    urls = servers.start()
    try:
        watch = [Shard(url, run="one", index=index) for index, url in enumerate(urls)]
        allow(watch)
        before = [shard.client.info("clients")["connected_clients"] for shard in watch]
        shards = [Shard(url, run="one", index=index) for index, url in enumerate(urls)]
        writer = make_writer(shards, "one")
        for seq in range(4):
            writer.write(make_segment(seq))
        after = [shard.client.info("clients")["connected_clients"] for shard in watch]
        assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1]
    finally:
        servers.stop()


def test_a_segment_that_cannot_be_encoded_leaves_no_ticket(shards: list[Shard], run_name: str) -> None:
    allow(shards)
    writer = make_writer(shards, run_name)
    wrong = replace(make_segment(0), rewards=make_segment(0).rewards * float("nan"))
    with pytest.raises(ValueError, match="not a finite number"):
        writer.write(wrong)
    for seq in range(1, 4):
        writer.write(make_segment(seq))
    assert [shard.tickets().outstanding for shard in shards] == [() for _ in shards]
    assert sorted(seq for names in logged(shards) for seq in names) == [1, 2, 3]


class TestAllowed:
    def test_segments_go_round_the_shards(self, shards: list[Shard], run_name: str) -> None:
        allow(shards)
        writer = make_writer(shards, run_name, first_shard=1)
        segments = [make_segment(seq) for seq in range(5)]
        sizes = [writer.write(segment) for segment in segments]
        assert logged(shards) == [[1, 3], [0, 2, 4]]
        received = read_new(LogReader(shards, run=run_name, signature=SIGNATURE), 100)
        for one in received:
            assert same_segment(one.segment, segments[one.segment.identity.seq])
        assert sizes == [len(encode(segment, run_name, SIGNATURE)) for segment in segments]
        counters = writer.counters
        assert (counters.segments, counters.items, counters.bytes, counters.retries) == (5, 40, sum(sizes), 0)
        assert all(shard.tickets().outstanding == () for shard in shards)
        assert [shard.tickets().reserved for shard in shards] == [16, 24]

    def test_waits_until_any_item_is_allowed(self, shards: list[Shard], run_name: str) -> None:
        writer = make_writer(shards[:1], run_name)
        shards[0].owning.set_allowed(1)
        writer.write(make_segment(0))  # (0, 8] begins before 1
        shards[0].owning.set_allowed(8)
        with in_background(
            lambda: writer.write(make_segment(1))
        ) as thread:  # (8, 16] does not begin before 8
            until(lambda: writer.counters.waited_s > 0.05, "a writer that waits")
            assert thread.is_alive()
            assert logged(shards)[0] == [0]
            shards[0].owning.set_allowed(9)
        assert logged(shards)[0] == [0, 1]

    def test_without_an_owner_nothing_comes_in(self, shards: list[Shard], run_name: str) -> None:
        writer: Writer
        writer = make_writer(shards, run_name, should_stop=lambda: writer.counters.waited_s > 0.1)
        with pytest.raises(WriterStopped):
            writer.write(make_segment(0))
        assert logged(shards) == [[], []]

    def test_stopped_writer_drains_without_waiting_and_leaves_no_ticket(
        self, shards: list[Shard], run_name: str
    ) -> None:
        writer = make_writer(shards, run_name, should_stop=lambda: True)
        with pytest.raises(WriterStopped):
            writer.write(make_segment(0))
        assert shards[0].tickets().outstanding != ()
        writer.write(make_segment(0), wait=False)
        writer.write(make_segment(1), wait=False)
        assert logged(shards) == [[0], [1]]
        assert all(shard.tickets().outstanding == () for shard in shards)

    def test_ticket_that_the_server_lost_is_taken_again(self, shards: list[Shard], run_name: str) -> None:
        reserve(shards[0], SegmentIdentity(8, 0, 0), 10_000)
        writer = make_writer(shards[:1], run_name)
        with in_background(lambda: writer.write(make_segment(0))):
            until(lambda: two_tickets(shards[0]), "a ticket")
            names = [f"apexpert:{{{run_name}:0}}:{name}" for name in ("reserved", "outstanding", "allowed")]
            shards[0].client.delete(*names)
            until(lambda: shards[0].tickets().reserved == 8, "another ticket")
            shards[0].owning.set_allowed(1)
        assert logged(shards)[0] == [0]

    def test_data_that_cannot_join_is_refused(self, shards: list[Shard], run_name: str) -> None:
        allow(shards)
        shards[0].check_meta(replace(SIGNATURE, n_step=1))
        with pytest.raises(SignatureMismatch):
            make_writer(shards, run_name).write(make_segment(0))
        assert logged(shards) == [[], []]

    def test_ticket_of_a_dead_incarnation_is_given_to_others(
        self, shards: list[Shard], run_name: str
    ) -> None:
        rules = Limiter(min_size=8, samples_per_insert=1.0, batch_size=4, error_buffer=4.0)
        reader = LogReader(shards, run=run_name, signature=SIGNATURE)
        allowance = Allowance(reader.cursors, rules)

        def refresh(*dead: tuple[int, int]) -> None:
            allowance.refresh({i: poll.book for i, poll in reader.poll(10).items()}, 0, 0, set(dead))
            for cursor in reader.cursors:
                cursor.pipeline.settle()

        for seq in range(2):  # 12 items may come in; two tickets take all, and their writers die
            reserve(shards[seq], SegmentIdentity(1 + seq, 0, 0), 8)
        refresh()
        assert [shard.tickets().allowed for shard in shards] == [8, 8]
        writer = make_writer(shards, run_name)
        with in_background(lambda: writer.write(make_segment(0))) as thread:
            until(lambda: two_tickets(shards[0]), "a ticket")
            refresh()
            until(lambda: writer.counters.waited_s > 0.05, "a writer that waits")
            assert thread.is_alive()
            refresh((1, 0))
        assert logged(shards) == [[0], []]


class TestFaults:
    def test_unanswered_commit_is_repeated_elsewhere_and_counts_once(
        self, shards: list[Shard], run_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        allow(shards)
        commit = shards[0].writing.commit

        def unanswered(*arguments: object) -> None:
            commit(*arguments)  # type: ignore[arg-type]
            raise ShardUnavailable("the answer was lost")

        monkeypatch.setattr(shards[0].writing, "commit", unanswered)
        writer, segment = make_writer(shards, run_name), make_segment(0)
        writer.write(segment)
        assert logged(shards) == [[0], [0]]
        reader = LogReader(shards, run=run_name, signature=SIGNATURE)
        (received,) = read_new(reader, 10)
        assert same_segment(received.segment, segment)
        assert [(shard, entry.identity) for shard, entry in reader.repeats] == [(1, segment.identity)]
        assert reader.counters["items"] == 8
        assert writer.counters.retries == 1
        assert writer.counters.segments == 1

    def test_unreachable_shard_is_left_alone(
        self, shards: list[Shard], run_name: str, tmp_path: Path
    ) -> None:
        allow(shards)
        gone = Shard(f"unix://{tmp_path}/none.sock", run=run_name, index=0, retry_seconds=0.2)
        writer = make_writer([gone, shards[1]], run_name)
        for seq in range(6):
            writer.write(make_segment(seq))
        assert logged(shards) == [[], list(range(6))]
        assert writer.counters.retries == 1

    def test_all_unreachable(self, run_name: str, tmp_path: Path) -> None:
        gone = [
            Shard(f"unix://{tmp_path}/{i}.sock", run=run_name, index=i, retry_seconds=0.05) for i in range(2)
        ]
        with pytest.raises(ShardUnavailable):
            make_writer(gone, run_name).write(make_segment(0), wait=False)
        writer: Writer
        writer = make_writer(gone, run_name, should_stop=lambda: writer.counters.retries >= 5)
        with pytest.raises(WriterStopped):
            writer.write(make_segment(0))

    def test_a_shard_rests_longer_each_time_until_it_takes_a_segment(
        self, shards: list[Shard], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("replay.writer.time", SimpleNamespace(monotonic=lambda: 100.0))
        writable, full = _WritableShard(shards[0]), ShardFull("full")

        def rest() -> float:
            writable.fail(full)
            return writable.order[1] - 100.0

        assert [rest() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
        assert not writable.is_open
        writable.succeed()
        assert writable.is_open
        assert rest() == 1

    def test_shard_that_comes_back_is_used_and_holds_no_ticket(
        self, shards: list[Shard], run_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("replay.writer.FIRST_REST_S", 0.1)
        allow(shards)

        def down(*arguments: object) -> None:
            raise ShardUnavailable("down")

        writer = make_writer(shards, run_name)
        with monkeypatch.context() as patch:
            patch.setattr(shards[0].writing, "commit", down)
            writer.write(make_segment(0))
        assert logged(shards) == [[], [0]]
        assert len(shards[0].tickets().outstanding) == 1

        def came_back() -> bool:
            writer.write(make_segment(writer.counters.segments))
            return len(logged(shards)[0]) > 0

        until(came_back, "the shard's return")
        assert shards[0].tickets().outstanding == ()

    def test_full_shard_is_waited_for(self, program: str, run_name: str, tmp_path: Path) -> None:
        path = server_programs()[program]
        with EmbeddedServers(
            tmp_path, shards=1, append_fsync="everysec", maxmemory=6 * 1024**2, server=path
        ) as servers:
            shard = Shard(servers.urls[0], run=run_name, index=0)
            shard.owning.set_allowed(FREE)

            def fill() -> None:
                for seq in range(1000):
                    shard.writing.commit(SegmentIdentity(9, 0, seq), os.urandom(20_000), 8, 8)

            with pytest.raises(ShardFull):
                fill()
            writer = make_writer([shard], run_name)

            def fill_with_segments() -> None:
                for seq in range(100):
                    writer.write(large_segment(seq), wait=False)

            with pytest.raises(ShardFull):
                fill_with_segments()
            last = large_segment(100)
            with in_background(lambda: writer.write(last)) as thread:
                until(lambda: writer.counters.retries > 3, "attempts")
                assert thread.is_alive()
                entries = shard.read_log(LOG_START, 1000)
                unlink(shard, [entry.identity for entry in entries[: len(entries) // 2] if entry.identity])
            assert shard.read_log(LOG_START, 1000)[-1].identity == last.identity
            assert shard.tickets().outstanding == ()


def large_segment(seq: int) -> Segment:
    return make_segment(seq, num_items=600)
