"""Segments that are gone, or there twice: copies elsewhere, trimmed logs, flushed servers, rewrites."""

import time
from pathlib import Path

import numpy as np
import pytest

from replay.sampler import Sampler
from replay.types import SegmentIdentity
from tests.helpers.deadline import until
from tests.helpers.shards.contents import draws, held, logged
from tests.helpers.shards.faulty_servers import (
    Scribe,
    check_accounts,
    faulty_run,
    faulty_servers,
    ingest_until,
    quiet,
)
from tests.helpers.shards.servers import server_programs


def test_a_copy_elsewhere_stands_in_for_a_segment_that_is_gone(tmp_path: Path) -> None:
    """A commit's answer is lost with its shard, and the writer repeats it on the other one."""
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers)
        first = run.fill(0, 60, actor=0)
        sampler = run.sampler()
        quiet(sampler)
        size = servers[0].size
        second = run.fill(0, 60, actor=1)
        quiet(sampler)
        draws(run, sampler)
        masses = {identity: masses_of(sampler, identity) for identity in held(sampler)}
        servers[0].kill()
        sampler.ingest()
        assert sampler.size == 0
        run.write(second[:2], 1)  # the writer has no answer, and repeats them here
        quiet(sampler)
        assert held(sampler) == {segment.identity for segment in (*first, *second)}
        assert sampler.size == sum(len(run.items[segment.identity]) for segment in second[:2])
        for segment in second[:2]:
            np.testing.assert_array_equal(masses_of(sampler, segment.identity), masses[segment.identity])
        draws(run, sampler, 1)
        servers[0].cut(size)
        servers[0].start()
        lost = sum(len(run.items[segment.identity]) for segment in second[2:])
        ingest_until(sampler, lambda: sampler.metrics()["replay/lost"] == lost, "what is lost for good")
        check_accounts(run, sampler, run.segments, lost=lost, parked=0, inserted=120)
        run.write(second[2:3], 1)  # one more turns up
        quiet(sampler)
        lost -= len(run.items[second[2].identity])
        check_accounts(run, sampler, run.segments, lost=lost, parked=0, inserted=120)
        draws(run, sampler)


def masses_of(sampler: Sampler, identity: SegmentIdentity) -> np.ndarray:
    leaves = sampler.table.item_leaves([sampler.table.slot_of[identity]])
    return sampler.table.masses(leaves).copy()


def test_a_copy_that_its_shard_keeps_is_deleted_when_that_is_back(tmp_path: Path) -> None:
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers)
        segments = run.fill(0, 60, actor=0)
        sampler = run.sampler()
        quiet(sampler)
        servers[0].kill()
        sampler.ingest()
        run.write(segments, 1)
        quiet(sampler)
        assert sampler.size == 60
        servers[0].start()
        ingest_until(sampler, lambda: logged(run, 0) == [], "the first copies' end")
        assert servers[0].client.keys("*:seg:*") == []
        assert len(logged(run, 1)) == len(segments)
        assert sampler.metrics()["replay/duplicates"] == len(segments)
        check_accounts(run, sampler, run.segments, lost=0, size=60)
        draws(run, sampler)


def test_a_log_trimmed_under_a_slow_reader(tmp_path: Path) -> None:
    """Somebody else trims the log, past what was read and past what was not."""
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers, segment_steps=8)
        sampler, scribe = run.sampler(), Scribe(run, 800)
        scribe.write(30)
        quiet(sampler)
        scribe.write(30)
        client, key = servers[0].client, f"apexpert:{{{run.name}:0}}:log"
        gone = logged(run, 0)[:20]  # 15 of them were read
        client.delete(*[f"apexpert:{{{run.name}:0}}:seg:{identity}" for identity in gone])
        assert client.xtrim(key, maxlen=10, approximate=False) == 20
        scribe.write(2)
        quiet(sampler)
        items = [len(run.items[identity]) for identity in gone]
        check_accounts(
            run, sampler, scribe.acknowledged, lost=sum(items[:15]), unread=sum(items[15:]), missing=15
        )
        assert held(sampler) == set(scribe.acknowledged) - set(gone)
        draws(run, sampler)


def test_a_flushed_server_is_all_lost_and_used_again(tmp_path: Path) -> None:
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers)
        sampler, scribe = run.sampler(), Scribe(run, 600)
        scribe.write(20)
        quiet(sampler)
        gone = logged(run, 1)
        servers[1].client.flushall()
        scribe.write(10)
        quiet(sampler)
        check_accounts(
            run, sampler, scribe.acknowledged, lost=sum(len(run.items[identity]) for identity in gone)
        )
        draws(run, sampler)


@pytest.mark.parametrize("program", sorted(server_programs()))
def test_killed_while_it_rewrites_its_file(tmp_path: Path, program: str) -> None:
    with faulty_servers(tmp_path, program=program, rdb_key_save_delay=10_000) as servers:
        run = faulty_run(servers, segment_steps=8)
        sampler, scribe = run.sampler(store_bytes=0), Scribe(run, 1200, pause=0.005)
        under_way = 0
        with scribe.writing():
            for turn in range(4):
                more = sampler.inserted + 60
                ingest_until(sampler, lambda more=more: sampler.inserted > more or scribe.done, "more")
                servers[0].client.bgrewriteaof()
                until(servers[0].is_rewriting, "a rewrite that is under way", pause=0.001)
                time.sleep(0.03 * turn)  # at another moment each time
                under_way += servers[0].is_rewriting()
                servers[0].kill()
                draws(run, sampler, 1)
                servers[0].start()
            ingest_until(sampler, lambda: scribe.done, "all of it")
        ingest_until(sampler, lambda: not sampler.metrics()["replay/parked_shards"], "the shard")
        assert under_way, "it was killed during a rewrite at least once"
        check_accounts(run, sampler, scribe.acknowledged, lost=0, unread=0, parked=0, missing=0)
        draws(run, sampler)


def test_all_is_lost_while_the_limiter_is_at_its_edge(tmp_path: Path) -> None:
    """Nothing can be drawn, so that no sample earns an insert: one segment must come in all the same."""
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers, min_size=100, error_buffer=200.0)
        sampler = run.sampler(batch_size=16, samples_per_insert=4.0)
        scribe = Scribe(run, 1_000, end=0.0)
        with scribe.writing():
            edge = sampler.limiter.max_inserts(sampler.sampled)
            ingest_until(sampler, lambda: sampler.inserted >= edge, "the edge")
            for server in servers:
                server.client.flushall()
            ingest_until(sampler, lambda: sampler.size == 0, "the loss")

            def use_up() -> bool:
                while sampler.can_sample():
                    run.check(sampler, sampler.sample())
                return scribe.done

            ingest_until(sampler, use_up, "the rest")
        check_accounts(run, sampler, scribe.acknowledged, size=1_000 - sampler.metrics()["replay/lost"])
