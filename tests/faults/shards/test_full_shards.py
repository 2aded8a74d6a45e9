"""Servers without room: out of memory at the limiter's edge, and a disk that takes no more; real servers."""

import os
from pathlib import Path

import pytest
import redis

from replay.errors import ShardFull
from tests.helpers.deadline import until
from tests.helpers.replay.samplers import Run
from tests.helpers.shards.faulty_servers import (
    FaultyServer,
    Scribe,
    check_accounts,
    faulty_run,
    faulty_servers,
    ingest_until,
    quiet,
    said,
)
from tests.helpers.shards.servers import server_programs

MEGABYTE = 1024**2
FRAMES = (60, 60)


def large_frames(run: Run) -> Run:
    """Random frames that do not compress: 16 steps are about 70 kB."""
    run.signature = run.signature.__class__(FRAMES, run.signature.stack, run.signature.n_step, 4)
    return run


def fill_up(server: FaultyServer) -> None:
    """Fill the memory with something of nobody's until the server refuses more, to the last byte."""
    size = 100_000
    while size:
        try:
            server.client.rpush("others", os.urandom(size))
        except redis.exceptions.OutOfMemoryError:
            size //= 2


@pytest.mark.parametrize("program", sorted(server_programs()))
def test_out_of_memory_with_the_limiter_at_its_edge(
    tmp_path: Path, program: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No segment fits, no allowance can be noted: the owner makes room, and everybody goes on."""
    with faulty_servers(tmp_path, program=program, maxmemory=12 * MEGABYTE) as servers:
        run = large_frames(
            faulty_run(servers, min_size=1_000, error_buffer=100.0, frame_store_bytes=64 * MEGABYTE)
        )
        sampler = run.sampler(batch_size=16, samples_per_insert=4.0)
        scribe = Scribe(run, 2_000, end=0.0)
        with scribe.writing():
            # As far as inserts may go without a sample; then there is no memory for any more of them.
            ingest_until(sampler, lambda: sampler.inserted >= 1_000, "the warm-up", 60.0)
            for server in servers:
                fill_up(server)
            assert sampler.can_sample()

            def use_up() -> bool:
                while sampler.can_sample():
                    run.check(sampler, sampler.sample())
                return scribe.done

            ingest_until(sampler, use_up, "the rest", 60.0)
        check_accounts(run, sampler, scribe.acknowledged, lost=0, unread=0, parked=0, inserted=2_000)
        assert sampler.metrics()["replay/evicted"] > 500
        assert said(caplog, "replay.owner.eviction", "is over 90 % of its memory: its oldest", "items leave")
        assert all(shard.administration.memory()[0] < 12 * MEGABYTE for shard in run.shards)


@pytest.mark.parametrize("program", sorted(server_programs()))
def test_an_owner_that_starts_on_full_servers(
    tmp_path: Path, program: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot even note that it is the owner, until it has made room."""
    with faulty_servers(tmp_path, program=program, maxmemory=6 * MEGABYTE) as servers:
        run = large_frames(faulty_run(servers))
        first = run.sampler()
        scribe = Scribe(run, 4_000, end=0.0)
        with pytest.raises(ShardFull):
            scribe.write()
        quiet(first)  # it has read everything, and dies before it can evict
        state, before = first.state(), run.shards[0].owning.owner()
        for server in servers:
            fill_up(server)
        second = run.sampler()
        report = second.restore(*state)
        assert report.items + int(second.metrics()["replay/evicted"]) == first.inserted
        ingest_until(second, lambda: all(shard.owning.owner() > before for shard in run.shards), "its notes")
        with scribe.writing():
            ingest_until(second, lambda: scribe.done, "the rest", 60.0)
        check_accounts(run, second, scribe.acknowledged, lost=0, unread=0)
        assert second.metrics()["replay/evicted"] > 0
        assert said(caplog, "replay.owner.eviction", "is over 90 % of its memory: its oldest", "items leave")


@pytest.mark.parametrize("program", sorted(server_programs()))
def test_a_full_disk_is_waited_for_and_the_other_shard_is_used(
    tmp_path: Path, program: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit on the file's size stands for the disk's end: the server refuses every write (MISCONF)."""
    with faulty_servers(tmp_path, program=program) as servers:
        run = faulty_run(servers, capacity=300)
        sampler = run.sampler()
        scribe = Scribe(run, 3_000, pause=0.003)
        with scribe.writing():
            ingest_until(sampler, lambda: sampler.inserted > 400, "some")
            servers[0].limit_file(servers[0].size + 3_000)
            until(lambda: (sampler.ingest(), servers[0].refuses())[1], "the first disk's end")
            acknowledged = len(scribe.acknowledged)
            ingest_until(
                sampler, lambda: len(scribe.acknowledged) > acknowledged + 30, "segments in the other one"
            )
            servers[1].limit_file(servers[1].size + 3_000)
            until(lambda: (sampler.ingest(), servers[1].refuses())[1], "the second disk's end")
            retries = scribe.writer.counters.retries
            ingest_until(sampler, lambda: scribe.writer.counters.retries > retries + 5, "a writer that waits")
            run.check(sampler, sampler.sample())
            acknowledged = len(scribe.acknowledged)
            sampler.ingest()
            assert len(scribe.acknowledged) == acknowledged
            for server in servers:
                server.limit_file()
            ingest_until(sampler, lambda: len(scribe.acknowledged) > acknowledged + 50, "more", 60.0)
        check_accounts(run, sampler, scribe.acknowledged, lost=0, unread=0)
        run.check(sampler, sampler.sample())
        assert said(caplog, "replay.writer", "writing waits: shard ", " is full: ", "MISCONF")
        assert said(caplog, "replay.log.cursor", "shard ", " is full: ", "MISCONF")
        # What left while nothing could be deleted is deleted now.
        ingest_until(sampler, lambda: stored(run) == sampler.table.num_segments, "the deletions")


def stored(run: Run) -> int:
    return sum(len(shard.client.keys("*:seg:*")) for shard in run.shards)
