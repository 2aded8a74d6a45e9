import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.errors import ShardError
from replay.log_reader import LogReader, ReceivedSegment, SeenSequences
from replay.segment import encode
from replay.shard import LOG_START, Shard
from replay.types import Segment, SegmentIdentity
from tests.helpers.servers import SIGNATURE, make_segment, same_segment


@pytest.fixture
def reader(shards: list[Shard], run_name: str) -> LogReader:
    return LogReader(shards, run=run_name, signature=SIGNATURE)


def put(shard: Shard, segment: Segment, run: str) -> bytes:
    data = encode(segment, run, SIGNATURE)
    shard.commit(segment.identity, data, segment.num_items, segment.num_steps)
    return data


def sequence(received: list[ReceivedSegment]) -> list[tuple[int, int]]:
    return [(one.shard, one.segment.identity.seq) for one in received]


def identities(shard: Shard) -> list[SegmentIdentity | None]:
    return [entry.identity for entry in shard.read_log(LOG_START, 1000)]


class TestReading:
    def test_what_was_written_comes_back(self, reader: LogReader, shards: list[Shard], run_name: str) -> None:
        segment = make_segment(5, actor=2, incarnation=1)
        data = put(shards[1], segment, run_name)
        (received,) = reader.poll(10)
        assert same_segment(received.segment, segment)
        assert (received.shard, received.num_bytes) == (1, len(data))
        assert received.log_id == shards[1].read_log(LOG_START, 1)[0].log_id == reader.cursors[1]
        assert received.header.identity == segment.identity
        assert reader.poll(10) == []
        counted = {name: count for name, count in reader.counters.items() if count}
        assert counted == {"segments": 1, "items": 8, "bytes": len(data)}

    def test_turns_between_shards_in_log_order_up_to_the_limit(
        self, reader: LogReader, shards: list[Shard], run_name: str
    ) -> None:
        for seq in range(5):
            put(shards[0], make_segment(seq), run_name)
        for seq in range(10, 12):
            put(shards[1], make_segment(seq), run_name)
        assert sequence(reader.poll(6)) == [(0, 0), (1, 10), (0, 1), (1, 11), (0, 2)]
        assert sequence(reader.poll(1)) == [(0, 3)]
        put(shards[1], make_segment(12), run_name)
        assert sequence(reader.poll(100)) == [(0, 4), (1, 12)]

    def test_two_round_trips_a_shard(self, reader: LogReader, shards: list[Shard], run_name: str) -> None:
        for seq in range(40):
            put(shards[seq % 2], make_segment(seq), run_name)

        def commands() -> list[int]:
            return [int(shard._client.info("stats")["total_reads_processed"]) for shard in shards]

        before = commands()
        assert len(reader.poll(100)) == 40
        # The XRANGE, the GETs, and this INFO itself.
        assert [after - start for after, start in zip(commands(), before, strict=True)] == [3, 3]

    def test_reader_may_need_less_than_was_written(self, shards: list[Shard], run_name: str) -> None:
        put(shards[0], make_segment(0), run_name)
        smaller = replace(SIGNATURE, stack=2, n_step=1)
        assert len(LogReader(shards, run=run_name, signature=smaller).poll(10)) == 1


class TestDuplicates:
    def test_repeated_on_the_same_shard(self, reader: LogReader, shards: list[Shard], run_name: str) -> None:
        for _ in range(3):
            put(shards[0], make_segment(0), run_name)
        assert sequence(reader.poll(10)) == [(0, 0)]
        assert reader.poll(10) == []
        assert reader.counters["duplicates"] == 2
        assert identities(shards[0]) == [SegmentIdentity(0, 0, 0)]
        assert shards[0].fetch([SegmentIdentity(0, 0, 0)]) != [None]

    @pytest.mark.parametrize("polls_between", [False, True])
    def test_repeated_on_another_shard(
        self, reader: LogReader, shards: list[Shard], run_name: str, polls_between: bool
    ) -> None:
        identity = SegmentIdentity(0, 0, 7)
        put(shards[0], make_segment(7), run_name)
        first = reader.poll(10) if polls_between else []
        put(shards[1], make_segment(7), run_name)
        assert sequence(first + reader.poll(10)) == [(0, 7)]
        reader.poll(10)
        assert reader.counters["duplicates"] == 1
        assert (identities(shards[0]), identities(shards[1])) == ([identity], [])
        assert shards[1].fetch([identity]) == [None]
        assert shards[0].fetch([identity]) != [None]

    def test_of_an_evicted_segment(self, reader: LogReader, shards: list[Shard], run_name: str) -> None:
        put(shards[0], make_segment(0), run_name)
        (received,) = reader.poll(10)
        shards[0].evict(received.log_id)
        put(shards[0], make_segment(0), run_name)
        assert reader.poll(10) == []
        reader.poll(10)
        assert shards[0].fetch([SegmentIdentity(0, 0, 0)]) == [None]

    def test_same_numbers_of_another_incarnation_are_new(
        self, reader: LogReader, shards: list[Shard], run_name: str
    ) -> None:
        for actor, incarnation in [(0, 0), (0, 1), (1, 0)]:
            put(shards[0], make_segment(3, actor=actor, incarnation=incarnation), run_name)
        assert len(reader.poll(10)) == 3


class TestRejection:
    def test_damaged_is_counted_and_skipped_and_a_good_copy_is_taken(
        self, reader: LogReader, shards: list[Shard], run_name: str
    ) -> None:
        segment = make_segment(1)
        data = bytearray(encode(segment, run_name, SIGNATURE))
        data[len(data) // 2] ^= 1
        put(shards[0], make_segment(0), run_name)
        shards[0].commit(segment.identity, bytes(data), segment.num_items, segment.num_steps)
        put(shards[0], make_segment(2), run_name)
        assert sequence(reader.poll(10)) == [(0, 0), (0, 2)]
        assert reader.counters["corrupt"] == 1
        put(shards[1], segment, run_name)
        assert sequence(reader.poll(10)) == [(1, 1)]

    def test_other_run_and_other_signature_are_foreign(
        self, reader: LogReader, shards: list[Shard], run_name: str
    ) -> None:
        put(shards[0], make_segment(0), "another-run")
        small = replace(SIGNATURE, stack=2)
        segment = make_segment(1, signature=small)
        data = encode(segment, run_name, small)
        shards[0].commit(segment.identity, data, segment.num_items, segment.num_steps)
        assert reader.poll(10) == []
        assert (reader.counters["run"], reader.counters["signature"]) == (1, 1)

    @pytest.mark.parametrize("field", ["identity", "num_items", "num_steps"])
    def test_segment_must_be_what_its_entry_says(
        self, reader: LogReader, shards: list[Shard], run_name: str, field: str
    ) -> None:
        segment = make_segment(1)
        said = {"identity": segment.identity, "num_items": segment.num_items, "num_steps": segment.num_steps}
        said[field] = SegmentIdentity(0, 0, 2) if field == "identity" else said[field] + 1  # type: ignore[operator]
        shards[0].commit(data=encode(segment, run_name, SIGNATURE), **said)  # type: ignore[arg-type]
        assert reader.poll(10) == []
        assert reader.counters["stray"] == 1

    def test_entry_without_its_segment_is_missing(
        self, reader: LogReader, shards: list[Shard], run_name: str
    ) -> None:
        put(shards[0], make_segment(0), run_name)
        put(shards[0], make_segment(1), run_name)
        shards[0].unlink([SegmentIdentity(0, 0, 0)])
        assert sequence(reader.poll(10)) == [(0, 1)]
        assert reader.counters["missing"] == 1
        put(shards[1], make_segment(0), run_name)  # its writer was not told, and tries again
        assert sequence(reader.poll(10)) == [(1, 0)]

    def test_entry_that_is_not_ours(self, reader: LogReader, shards: list[Shard], run_name: str) -> None:
        shards[0]._client.xadd(f"apexpert:{{{run_name}:0}}:log", {"what": "ever"})
        put(shards[0], make_segment(0), run_name)
        assert sequence(reader.poll(10)) == [(0, 0)]
        assert reader.counters["stray"] == 1

    def test_what_was_rejected_leaves_with_its_neighbours(
        self, reader: LogReader, shards: list[Shard], run_name: str
    ) -> None:
        bad = make_segment(0)
        shards[0].commit(bad.identity, b"garbage", bad.num_items, bad.num_steps)
        put(shards[0], make_segment(1), run_name)
        (received,) = reader.poll(10)
        shards[0].evict(received.log_id, [received.segment.identity])
        assert shards[0].fetch([bad.identity, received.segment.identity]) == [None, None]


class TestState:
    def test_goes_on_where_it_was(self, reader: LogReader, shards: list[Shard], run_name: str) -> None:
        for seq in range(6):
            put(shards[seq % 2], make_segment(seq), run_name)
        reader.poll(4)
        state = json.loads(json.dumps(reader.state))
        other = LogReader(shards, run=run_name, signature=SIGNATURE)
        other.restore(state)
        assert other.state == state
        put(shards[0], make_segment(0), run_name)
        assert sequence(other.poll(100)) == [(0, 4), (1, 5)]
        assert other.counters["duplicates"] == 1
        assert other.counters["segments"] == 6

    def test_of_another_number_of_shards_is_refused(self, reader: LogReader, shards: list[Shard]) -> None:
        with pytest.raises(ShardError, match="checkpoint is of 1 shards, not of 2"):
            reader.restore(LogReader(shards[:1], run="r", signature=SIGNATURE).state)

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
