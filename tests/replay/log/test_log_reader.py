import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.log.ledger import SeenSequences
from replay.log.reader import LogReader, ReceivedSegment
from replay.segments.codec import encode
from replay.shards.shard import LOG_START, Shard
from replay.types import Segment, SegmentIdentity
from tests.helpers.replay.fuzzing import log_fields
from tests.helpers.shards.commands import read_new, unlink
from tests.helpers.shards.servers import SIGNATURE, make_segment, same_segment


@pytest.fixture
def reader(shards: list[Shard], run_name: str) -> LogReader:
    return LogReader(shards, run=run_name, signature=SIGNATURE)


def put(shard: Shard, segment: Segment, run: str) -> bytes:
    data = encode(segment, run, SIGNATURE)
    shard.writing.commit(segment.identity, data, segment.num_items, segment.num_steps)
    return data


def sequence(received: list[ReceivedSegment]) -> list[tuple[int, int]]:
    return [(one.shard_index, one.segment.identity.seq) for one in received]


def identities(shard: Shard) -> list[SegmentIdentity | None]:
    return [entry.identity for entry in shard.read_log(LOG_START, 1000)]


class TestReading:
    def test_what_was_written_comes_back(self, reader: LogReader, shards: list[Shard], run_name: str) -> None:
        segment = make_segment(5, actor=2, incarnation=1)
        data = put(shards[1], segment, run_name)
        (received,) = read_new(reader, 10)
        assert same_segment(received.segment, segment)
        assert (received.shard_index, received.num_bytes) == (1, len(data))
        assert received.log_id == shards[1].read_log(LOG_START, 1)[0].log_id == reader.positions[1]
        assert received.header.identity == segment.identity
        assert read_new(reader, 10) == []
        counted = {name: count for name, count in reader.counters.items() if count}
        assert counted == {"segments": 1, "items": 8, "bytes": len(data)}

    def test_turns_between_shards_in_log_order_up_to_the_limit(
        self, reader: LogReader, shards: list[Shard], run_name: str
    ) -> None:
        for seq in range(5):
            put(shards[0], make_segment(seq), run_name)
        for seq in range(10, 12):
            put(shards[1], make_segment(seq), run_name)
        assert sequence(read_new(reader, 6)) == [(0, 0), (1, 10), (0, 1), (1, 11), (0, 2)]
        assert sequence(read_new(reader, 1)) == [(0, 3)]
        put(shards[1], make_segment(12), run_name)
        assert sequence(read_new(reader, 100)) == [(0, 4), (1, 12)]

    def test_two_round_trips_a_shard(self, reader: LogReader, shards: list[Shard], run_name: str) -> None:
        def commands() -> list[int]:
            return [int(shard.client.info("stats")["total_reads_processed"]) for shard in shards]

        reads = []
        for turn in range(5):
            for seq in range(10 * turn, 10 * turn + 10):
                put(shards[seq % 2], make_segment(seq), run_name)
            before = commands()
            assert len(read_new(reader, 100)) == 10
            reads.append([after - start for after, start in zip(commands(), before, strict=True)])
        # The look, the segments, and this INFO itself; a server may read one request in two parts.
        assert [min(counts) for counts in zip(*reads, strict=True)] == [3, 3]

    def test_reader_may_need_less_than_was_written(self, shards: list[Shard], run_name: str) -> None:
        put(shards[0], make_segment(0), run_name)
        smaller = replace(SIGNATURE, stack=2, n_step=1)
        assert len(read_new(LogReader(shards, run=run_name, signature=smaller), 10)) == 1


class TestRepeats:
    """What was taken before is told to the owner, who decides (tests/replay/owner)."""

    def repeated(self, reader: LogReader) -> list[tuple[int, int]]:
        found, reader.repeats = reader.repeats, []
        return [(shard, entry.identity.seq if entry.identity else -1) for shard, entry in found]

    def test_repeated_on_the_same_shard(self, reader: LogReader, shards: list[Shard], run_name: str) -> None:
        for _ in range(3):
            put(shards[0], make_segment(0), run_name)
        assert sequence(read_new(reader, 10)) == [(0, 0)]
        assert self.repeated(reader) == [(0, 0)] * 2
        assert read_new(reader, 10) == []
        assert self.repeated(reader) == []

    @pytest.mark.parametrize("polls_between", [False, True])
    def test_repeated_on_another_shard(
        self, reader: LogReader, shards: list[Shard], run_name: str, polls_between: bool
    ) -> None:
        put(shards[0], make_segment(7), run_name)
        first = read_new(reader, 10) if polls_between else []
        put(shards[1], make_segment(7), run_name)
        assert sequence(first + read_new(reader, 10)) == [(0, 7)]
        assert self.repeated(reader) == [(1, 7)]

    def test_of_a_lost_segment_is_taken_again(
        self, reader: LogReader, shards: list[Shard], run_name: str
    ) -> None:
        put(shards[0], make_segment(0), run_name)
        assert [one.was_lost for one in read_new(reader, 10)] == [False]
        reader.ledger.lose(SegmentIdentity(0, 0, 0), 8, was_taken=True)
        assert reader.ledger.lost_items == 8
        put(shards[1], make_segment(0), run_name)
        assert [(one.shard_index, one.was_lost) for one in read_new(reader, 10)] == [(1, True)]
        assert reader.ledger.lost_items == 0

    def test_same_numbers_of_another_incarnation_are_new(
        self, reader: LogReader, shards: list[Shard], run_name: str
    ) -> None:
        for actor, incarnation in [(0, 0), (0, 1), (1, 0)]:
            put(shards[0], make_segment(3, actor=actor, incarnation=incarnation), run_name)
        assert len(read_new(reader, 10)) == 3


class TestRejection:
    def test_damaged_is_counted_and_skipped_and_a_good_copy_is_taken(
        self, reader: LogReader, shards: list[Shard], run_name: str
    ) -> None:
        segment = make_segment(1)
        data = bytearray(encode(segment, run_name, SIGNATURE))
        data[len(data) // 2] ^= 1
        put(shards[0], make_segment(0), run_name)
        shards[0].writing.commit(segment.identity, bytes(data), segment.num_items, segment.num_steps)
        put(shards[0], make_segment(2), run_name)
        assert sequence(read_new(reader, 10)) == [(0, 0), (0, 2)]
        assert reader.counters["corrupt"] == 1
        put(shards[1], segment, run_name)
        assert sequence(read_new(reader, 10)) == [(1, 1)]

    def test_other_run_and_other_signature_are_foreign(
        self, reader: LogReader, shards: list[Shard], run_name: str
    ) -> None:
        put(shards[0], make_segment(0), "another-run")
        small = replace(SIGNATURE, stack=2)
        segment = make_segment(1, signature=small)
        data = encode(segment, run_name, small)
        shards[0].writing.commit(segment.identity, data, segment.num_items, segment.num_steps)
        assert read_new(reader, 10) == []
        assert (reader.counters["run"], reader.counters["signature"]) == (1, 1)

    @pytest.mark.parametrize("field", ["identity", "num_items", "num_steps"])
    def test_segment_must_be_what_its_entry_says(
        self, reader: LogReader, shards: list[Shard], run_name: str, field: str
    ) -> None:
        segment = make_segment(1)
        said = {"identity": segment.identity, "num_items": segment.num_items, "num_steps": segment.num_steps}
        said[field] = SegmentIdentity(0, 0, 2) if field == "identity" else said[field] + 1  # type: ignore[operator]
        shards[0].writing.commit(data=encode(segment, run_name, SIGNATURE), **said)  # type: ignore[arg-type]
        assert read_new(reader, 10) == []
        assert reader.counters["stray"] == 1

    def test_entry_without_its_segment_is_missing(
        self, reader: LogReader, shards: list[Shard], run_name: str
    ) -> None:
        put(shards[0], make_segment(0), run_name)
        put(shards[0], make_segment(1), run_name)
        unlink(shards[0], [SegmentIdentity(0, 0, 0)])
        assert sequence(read_new(reader, 10)) == [(0, 1)]
        assert reader.counters["missing"] == 1
        put(shards[1], make_segment(0), run_name)  # its writer was not told, and tries again
        assert sequence(read_new(reader, 10)) == [(1, 0)]

    def test_entry_that_is_not_ours(self, reader: LogReader, shards: list[Shard], run_name: str) -> None:
        shards[0].client.xadd(f"apexpert:{{{run_name}:0}}:log", {"what": "ever"})
        put(shards[0], make_segment(0), run_name)
        assert sequence(read_new(reader, 10)) == [(0, 0)]
        assert reader.counters["stray"] == 1

    def test_items_that_are_not_taken_are_lost_unless_they_come_again(
        self, reader: LogReader, shards: list[Shard], run_name: str
    ) -> None:
        bad = make_segment(0)
        shards[0].writing.commit(bad.identity, b"garbage", bad.num_items, bad.num_steps)
        assert read_new(reader, 10) == []
        assert reader.ledger.lost_items == 8
        put(shards[1], bad, run_name)
        assert [one.was_lost for one in read_new(reader, 10)] == [False]  # it had never been taken
        assert reader.ledger.lost_items == 0

    def test_what_a_writer_wrote_and_no_log_names_is_counted(
        self, reader: LogReader, shards: list[Shard], run_name: str
    ) -> None:
        for seq, total in ((0, 8), (3, 32)):
            segment = make_segment(seq)
            shards[0].writing.commit(
                segment.identity,
                encode(segment, run_name, SIGNATURE),
                segment.num_items,
                segment.num_steps,
                total,
            )
        assert sequence(read_new(reader, 10)) == [(0, 0), (0, 3)]
        assert reader.ledger.unread_items == 16
        put(shards[1], make_segment(1), run_name)
        read_new(reader, 10)
        assert reader.ledger.unread_items == 8

    def test_a_row_is_believed_within_reason_and_its_total_only_with_its_segment(
        self, reader: LogReader, shards: list[Shard], run_name: str
    ) -> None:
        segment, log = make_segment(3), f"apexpert:{{{run_name}:0}}:log"
        row = log_fields(segment.identity, 8, 10, 500)
        for beyond in ({"n": 2**13 + 1}, {"s": 2**13 + 2**10}, {"t": 2**15 + 1}):
            shards[0].client.xadd(log, row | beyond)
        assert read_new(reader, 10) == []
        assert (reader.counters["stray"], reader.ledger.lost_items) == (3, 0)
        shards[0].client.xadd(log, row | {"n": 2**13, "s": 2**13, "t": 2**15})
        assert read_new(reader, 10) == []
        ledger = reader.ledger
        assert (reader.counters["missing"], ledger.lost_items, ledger.unread_items) == (1, 2**13, 0)
        data = encode(segment, run_name, SIGNATURE)
        shards[0].writing.commit(segment.identity, data, segment.num_items, segment.num_steps, 32)
        assert sequence(read_new(reader, 10)) == [(0, 3)]
        assert (ledger.lost_items, ledger.unread_items) == (0, 24)
        assert all(name is None for _, name in reader.cursors[0].unindexed)


class TestState:
    def test_goes_on_where_it_was(self, reader: LogReader, shards: list[Shard], run_name: str) -> None:
        for seq in range(6):
            put(shards[seq % 2], make_segment(seq), run_name)
        read_new(reader, 4)
        state = json.loads(json.dumps(reader.state))
        other = LogReader(shards, run=run_name, signature=SIGNATURE)
        other.restore(state)
        assert other.state == state
        put(shards[0], make_segment(0), run_name)
        assert sequence(read_new(other, 100)) == [(0, 4), (1, 5)]
        assert len(other.repeats) == 1
        assert other.counters["segments"] == 6

    def test_of_fewer_shards_reads_the_others_from_the_start(
        self, reader: LogReader, shards: list[Shard], run_name: str
    ) -> None:
        one = LogReader(shards[:1], run=run_name, signature=SIGNATURE)
        put(shards[0], make_segment(0), run_name)
        put(shards[1], make_segment(1), run_name)
        assert sequence(read_new(one, 10)) == [(0, 0)]
        reader.restore(one.state)
        assert sequence(read_new(reader, 10)) == [(1, 1)]

    @given(st.lists(st.integers(0, 30), max_size=60))
    def test_seen_sequences_are_a_set(self, values: list[int]) -> None:
        seen, model = SeenSequences(), set()
        for value in values:
            seen.add(value)
            model.add(value)
            assert [v in seen for v in range(-1, 33)] == [v in model for v in range(-1, 33)]
        ranges = np.array(seen.ranges).reshape(-1, 2)
        assert (ranges[1:, 0] > ranges[:-1, 1]).all()
        assert SeenSequences(seen.ranges).ranges == seen.ranges
