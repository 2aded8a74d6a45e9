"""Servers that come back with less than they had, the end of their file cut off; real servers."""

import json
import time
from pathlib import Path

import pytest

from replay.shards.records import log_order
from replay.shards.shard import LOG_START
from tests.helpers.shards.contents import draws, held, logged
from tests.helpers.shards.faulty_servers import (
    FaultyServer,
    Scribe,
    check_accounts,
    faulty_run,
    faulty_servers,
    ingest_until,
    quiet,
)
from tests.helpers.shards.servers import server_programs


def come_back_cut(server: FaultyServer, size: int) -> None:
    """Killed, and with the end of its file lost, as after a power loss."""
    server.kill()
    server.cut(size)
    server.start()


@pytest.mark.parametrize("program", sorted(server_programs()))
@pytest.mark.parametrize("clock_set_back", [False, True])
@pytest.mark.parametrize("reading", ["while it happens", "not before it is back", "not at all before"])
def test_a_cut_tail_is_counted_and_nothing_else_is_lost(
    tmp_path: Path, program: str, clock_set_back: bool, reading: str
) -> None:
    """With the clock set back, its new entries have ids that the reader has passed, or even the same ones."""
    with faulty_servers(tmp_path, program=program) as servers:
        run = faulty_run(servers, segment_steps=8)
        sampler = run.sampler()
        scribe = Scribe(run, 600)
        scribe.write(20)
        if clock_set_back:  # as if its clock had been a year ahead until now
            ahead = f"{int(1000 * time.time()) + 31_536_000_000}-0"
            servers[0].client.execute_command("XSETID", f"apexpert:{{{run.name}:0}}:log", ahead)
        scribe.write(10)
        size = servers[0].size
        if reading != "not at all before":
            quiet(sampler)
        scribe.write(20)
        if reading == "while it happens":
            quiet(sampler)
            draws(run, sampler)
        there = set(logged(run, 0))
        servers[0].kill()
        servers[0].cut(size - 3)  # in the middle of a command
        if reading == "while it happens":
            sampler.ingest()
        servers[0].start()
        lost = there - set(logged(run, 0))
        assert 10 <= len(lost) <= 12
        before = log_order(run.shards[0].read_log(LOG_START, 1000)[-1].log_id)
        scribe.write(20)
        new = run.shards[0].read_log(f"{before[0]}-{before[1]}", 1000)
        assert len(new) == 10
        assert all(log_order(entry.log_id)[0] == before[0] for entry in new) == clock_set_back
        ingest_until(sampler, lambda: not sampler.metrics()["replay/parked_shards"], "the shard")
        quiet(sampler)
        num_lost = sum(len(run.items[identity]) for identity in lost)
        values = sampler.metrics()
        assert values["replay/lost"] + values["replay/unread"] == num_lost
        assert (values["replay/lost"] == num_lost) == (reading == "while it happens")
        assert held(sampler) == set(scribe.acknowledged) - lost
        check_accounts(run, sampler, scribe.acknowledged, parked=0, evicted=0)
        draws(run, sampler)
        scribe.write()
        check_accounts(run, sampler, scribe.acknowledged, parked=0, evicted=0)


def test_what_was_evicted_before_the_cut_is_evicted_again(tmp_path: Path) -> None:
    """The file's lost end held the deletions: the server has the segments again, the sampler does not."""
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers, segment_steps=8, capacity=160)
        sampler, scribe = run.sampler(), Scribe(run, 800)
        scribe.write(20)
        quiet(sampler)
        size = servers[1].size
        scribe.write(40)
        quiet(sampler)
        evicted = set(scribe.acknowledged) - held(sampler)
        assert not evicted & set(logged(run, 1))
        come_back_cut(servers[1], size)
        assert evicted & set(logged(run, 1))
        scribe.write(2)
        ingest_until(sampler, lambda: not evicted & set(logged(run, 1)), "their second eviction")
        assert set(logged(run, 1)) | set(logged(run, 0)) == held(sampler)
        keys = servers[1].client.keys("*:seg:*")
        assert len(keys) == len(logged(run, 1))
        check_accounts(run, sampler, scribe.acknowledged)
        draws(run, sampler)


@pytest.mark.parametrize("sampler_restarts", [False, True])
def test_deletions_alone_are_lost_with_the_tail(tmp_path: Path, sampler_restarts: bool) -> None:
    """All that was read is as it was, and before it lie segments that had left."""
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers, segment_steps=8, capacity=160)
        sampler, scribe = run.sampler(), Scribe(run, 800)
        scribe.write(40)
        flush = sampler._indexer.pending_deletions.flush
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampler._indexer.pending_deletions, "flush", lambda shards: None)
            quiet(sampler)
        size = servers[0].size
        flush(range(len(servers)))
        quiet(sampler)
        assert servers[0].size > size
        state = json.loads(json.dumps(sampler.state()[0])), sampler.state()[1]
        come_back_cut(servers[0], size)
        back = set(logged(run, 0)) - held(sampler)
        assert back
        if sampler_restarts:
            sampler.close()
            sampler = run.sampler()
            assert sampler.restore(*state).dropped == 0
        ingest_until(sampler, lambda: not back & set(logged(run, 0)), "their second eviction")
        assert set(logged(run, 1)) | set(logged(run, 0)) == held(sampler)
        assert len(servers[0].client.keys("*:seg:*")) == len(logged(run, 0))
        check_accounts(run, sampler, scribe.acknowledged, lost=0, unread=0)
        draws(run, sampler)


@pytest.mark.parametrize("way", ["ingest", "refresh_allowance"])
def test_ids_of_before_name_other_segments_now(tmp_path: Path, way: str) -> None:
    """What leaves by an id of before must not take another's entry along: its segment would stay for ever."""
    with faulty_servers(tmp_path, 1) as servers:
        run = faulty_run(servers, segment_steps=8, capacity=160)
        sampler, scribe = run.sampler(), Scribe(run, 1200)
        scribe.write(2)
        ahead = f"{int(1000 * time.time()) + 31_536_000_000}-0"
        servers[0].client.execute_command("XSETID", f"apexpert:{{{run.name}:0}}:log", ahead)
        size = servers[0].size
        scribe.write(30)
        with pytest.MonkeyPatch.context() as patch:
            if way == "refresh_allowance":  # then what has left waits to be deleted
                patch.setattr(sampler._indexer.pending_deletions, "flush", lambda shards: None)
            quiet(sampler)
        before = {entry.log_id: entry.identity for entry in run.shards[0].read_log(LOG_START, 1000)}
        come_back_cut(servers[0], size)
        scribe.write(30)
        after = {entry.log_id: entry.identity for entry in run.shards[0].read_log(LOG_START, 1000)}
        assert len([log_id for log_id in before if after.get(log_id) not in (None, before[log_id])]) > 10
        if way == "refresh_allowance":
            assert sampler._indexer.pending_deletions.state
            sampler.refresh_allowance()
        while sampler.ingest(3):  # a few at a time: some leave before they are named again
            draws(run, sampler, 1)
        quiet(sampler)
        assert set(logged(run, 0)) == held(sampler)
        assert len(servers[0].client.keys("*:seg:*")) == len(held(sampler))
        check_accounts(run, sampler, scribe.acknowledged)


@pytest.mark.parametrize("program", sorted(server_programs()))
@pytest.mark.parametrize("cut_in", ["its segment", "its end"])
def test_a_transaction_cut_in_two(tmp_path: Path, program: str, cut_in: str) -> None:
    """Redis and Valkey 8 leave its first part in the file, and run it when they start for the second time."""
    with faulty_servers(tmp_path, 1, program=program) as servers:
        run = faulty_run(servers, segment_steps=8)
        sampler, scribe = run.sampler(), Scribe(run, 600)
        scribe.write(20)
        quiet(sampler)
        content = servers[0].file.read_bytes()
        key = content.rindex(b":seg:")
        size = key + 60 if cut_in == "its segment" else content.index(b"EXEC", key) + 2
        come_back_cut(servers[0], size)
        ingest_until(sampler, lambda: sampler.metrics()["replay/lost"] > 0, "what is lost")
        scribe.write(5)
        assert len(logged(run, 0)) == 24
        servers[0].kill()
        servers[0].start()
        named = len(logged(run, 0))
        assert named in (24, 25)  # is it again?
        scribe.write(1)
        there = named + 1 if cut_in == "its end" else 25
        ingest_until(sampler, lambda: len(held(sampler)) == there, "all that is there")
        assert len(servers[0].client.keys("*:seg:*")) == there
        check_accounts(run, sampler, scribe.acknowledged, unread=0)
        draws(run, sampler)
