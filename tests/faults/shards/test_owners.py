"""One owner at a time, and samplers that start again while shards are missing; real servers."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from replay.errors import StaleOwner
from replay.sampler import Sampler
from replay.shards.records import Owner
from replay.shards.shard import LOG_START
from replay.tools.stored_shard import StoredShard
from replay.types import SegmentIdentity
from tests.helpers.deadline import patient, until
from tests.helpers.replay.samplers import Run, same_batches
from tests.helpers.root import ROOT
from tests.helpers.shards.faulty_servers import (
    Scribe,
    check_accounts,
    faulty_run,
    faulty_servers,
    ingest_until,
    quiet,
    shards_of,
)

OWNER = """
import sys, time
sys.path.insert(0, {root!r})
from replay.errors import StaleOwner
from tests.helpers.shards.faulty_servers import shards_of
from tests.helpers.replay.samplers import Run, replay_config, small_signature

config = replay_config(capacity=100, min_size=20, error_buffer=100.0)
run = Run({urls!r}, small_signature(config), config, name={name!r})
sampler = run.sampler(batch_size=16)
try:
    while True:
        sampler.ingest()
        print("inserted", sampler.inserted, flush=True)
        time.sleep(0.005)
except StaleOwner as error:
    print(error, flush=True)
"""


@contextlib.contextmanager
def owner_process(code: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def logs(run: Run) -> list[list[SegmentIdentity | None]]:
    return [[entry.identity for entry in shard.read_log(LOG_START, 10_000)] for shard in run.shards]


def test_an_owner_that_was_paused_ends_before_it_evicts_or_allows(tmp_path: Path) -> None:
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers, capacity=100, min_size=20, error_buffer=100.0)
        scribe = Scribe(run, 400)
        scribe.write(10)
        root = str(ROOT)
        code = OWNER.format(root=root, urls=list(run.urls), name=run.name)
        with owner_process(code) as old:
            assert old.stdout is not None
            until(lambda: "inserted" in (old.stdout.readline() if old.stdout else ""), "the first owner")
            os.kill(old.pid, signal.SIGSTOP)
            owned = run.shards[0].owning.owner()
            new = run.sampler(batch_size=16)
            new.rebuild()
            assert run.shards[1].owning.owner() == run.shards[0].owning.owner() > owned
            scribe.write(20)  # more than the old one would keep
            new.sample()
            new.refresh_allowance()
            before = logs(run), [shard.tickets().allowed for shard in run.shards]
            os.kill(old.pid, signal.SIGCONT)
            last = old.stdout.read().strip().splitlines()[-1]
            assert old.wait(patient(20)) == 0
        assert "belongs to a later sampler: this one ends" in last
        assert (logs(run), [shard.tickets().allowed for shard in run.shards]) == before
        quiet(new)
        check_accounts(run, new, scribe.acknowledged, lost=0, unread=0)


def test_every_way_out_to_the_shards_is_closed_to_a_stale_owner(tmp_path: Path) -> None:
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers)
        run.fill(0, 60, actor=0)
        old, new = run.sampler(), run.sampler()
        quiet(old)
        new.take_ownership()
        for way in (old.ingest, old.refresh_allowance, old.rebuild):
            with pytest.raises(StaleOwner):
                way()
        run.check(old, old.sample())  # what it has it may look at
        old.take_ownership()
        quiet(old)
        with pytest.raises(StaleOwner):
            new.ingest()


def test_the_later_of_two_wins_even_while_a_shard_is_away(tmp_path: Path) -> None:
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers)
        run.fill(0, 60, actor=0)
        run.fill(1, 60, actor=1)
        old, new = run.sampler(), run.sampler()
        quiet(old)
        owned = run.shards[0].owning.owner()
        servers[1].freeze()
        quiet(old)
        new.rebuild()  # takes the first shard only
        assert new.size == 60
        servers[1].thaw()
        ingest_until(new, lambda: new.size == 120, "the other one")
        assert run.shards[1].owning.owner() == run.shards[0].owning.owner() > owned
        with pytest.raises(StaleOwner):
            ingest_until(old, lambda: False, "its end")


def test_owners_of_single_shards_follow_each_other_whichever_was_away(tmp_path: Path) -> None:
    """Nobody is taken for a stale owner by a note of somebody before, which was in a shard that was away."""
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers)
        run.fill(0, 60, actor=0)
        run.fill(1, 60, actor=1)
        run.sampler().take_ownership()
        servers[0].kill()
        run.sampler().take_ownership()
        servers[0].start()
        servers[1].kill()
        last = run.sampler()
        last.rebuild()
        servers[1].start()
        ingest_until(last, lambda: last.size == 120, "the other shard, which somebody took alone before")
        assert run.shards[0].owning.owner() == run.shards[1].owning.owner()
        check_accounts(run, last, run.segments, lost=0, parked=0)


def test_a_sign_of_life_lasts_as_long_as_its_owner_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay.owner.ownership.SIGN_EVERY_S", 0.0)
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers)
        run.fill(0, 60, actor=0)
        stored = [StoredShard(url, run=run.name, index=i) for i, url in enumerate(run.urls)]

        def seen() -> list[bool]:
            return [shard.has_owner_at_work() for shard in stored]

        assert seen() == [False, False]
        old = run.sampler()
        old.take_ownership()
        assert seen() == [True, True], "before anything is read, which may take long"
        assert all(0 < server.client.ttl(stored[i].alive_key) <= 300 for i, server in enumerate(servers))
        for i, server in enumerate(servers):
            server.client.expire(stored[i].alive_key, 5)
        old.ingest()
        quiet(old)
        assert all(server.client.ttl(stored[i].alive_key) > 200 for i, server in enumerate(servers))
        new = run.sampler()
        new.take_ownership()
        with pytest.raises(StaleOwner):
            old.ingest()
        old.close()
        assert seen() == [True, True], "they are the other one's"
        servers[0].kill()
        new.ingest()
        new.close()
        assert not stored[1].has_owner_at_work()


def test_a_note_that_is_lost_with_a_files_end_is_written_again(tmp_path: Path) -> None:
    with faulty_servers(tmp_path, 1) as servers:
        run = faulty_run(servers)
        run.fill(0, 60, actor=0)
        size = servers[0].size
        sampler = run.sampler()
        quiet(sampler)
        note = run.shards[0].owning.owner()
        servers[0].kill()
        servers[0].cut(size)
        servers[0].start()
        assert run.shards[0].owning.owner() == Owner()
        ingest_until(sampler, lambda: sampler.size == 60, "the shard")
        assert run.shards[0].owning.owner() == note
        quiet(sampler)


def priorities(sampler: Sampler) -> dict[tuple[SegmentIdentity, int], float]:
    table, found = sampler.table, {}
    for identity, slot in table.slot_of.items():
        masses = table.masses(table.item_leaves([slot])).tolist()
        found |= {(identity, place): mass for place, mass in enumerate(masses)}
    return found


@pytest.mark.parametrize("change", ["nothing", "capacity", "n_step"])
def test_a_sampler_that_starts_again_without_a_shard(tmp_path: Path, change: str) -> None:
    """Its checkpoint's priorities wait for the shard to come back; with another n-step they begin anew."""
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers, capacity=500)
        for actor in range(6):
            run.fill(actor % 2, 60, actor=actor)
        first = run.sampler(store_bytes=0)
        quiet(first)
        for _ in range(8):
            batch = first.sample()
            first.update_priorities(batch.leaf, batch.generation, np.abs(np.sin(batch.leaf)) + 0.1)
        known = priorities(first)
        document, arrays = first.state()
        servers[1].kill()
        if change != "nothing":
            value = {"capacity": 450, "n_step": 2}[change]
            run.config = type(run.config)(**{**vars(run.config), change: value})
            run.signature = type(run.signature)(**{**vars(run.signature), "n_step": run.config.n_step})
        run.shards = shards_of(run)
        second = run.sampler(store_bytes=0)
        report = second.restore(document, arrays)
        assert (report.exact, report.items) == (False, 180)
        assert (report.parked, report.dropped) == ((0, 180) if change == "n_step" else (180, 0))
        if change != "n_step":
            run.check(second, second.sample())
        run.fill(0, 30, actor=20)
        quiet(second)
        servers[1].start()
        ingest_until(second, lambda: second.size == 390, "the other shard's segments")
        found = priorities(second)
        same = {key for key, mass in known.items() if found[key] == mass}
        if change == "n_step":
            assert {key for key in known if run.shard_of[key[0]] == 0} <= same
        else:
            assert same == set(known)
            for _ in range(5):
                run.check(second, second.sample())
        check_accounts(run, second, run.segments, lost=0, parked=0, unread=0, inserted=390)


def test_a_restored_sampler_draws_on_exactly_after_a_shard_was_killed(tmp_path: Path) -> None:
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers)
        for actor in range(4):
            run.fill(actor % 2, 60, actor=actor)
        first = run.sampler()
        quiet(first)
        first.sample()
        state = first.state()
        servers[0].kill()
        servers[0].start()
        second = run.sampler(seed=99)
        assert second.restore(*state).exact
        quiet(second)
        for _ in range(5):
            assert same_batches(first.sample(), second.sample())


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_what_was_evicted_after_a_checkpoint_is_not_lost(tmp_path: Path, fault: str) -> None:
    """Its shard is away while another sampler goes on from the checkpoint, which knows of the segments."""
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers, segment_steps=8, capacity=160)
        first, scribe = run.sampler(), Scribe(run, 800)
        scribe.write(20)
        quiet(first)
        state = first.state()
        scribe.write(10)
        quiet(first)
        assert first.metrics()["replay/evicted"] > 0
        first.close()
        servers[1].kill() if fault == "killed" else servers[1].freeze()
        second = run.sampler()
        assert second.restore(*state).parked > 0
        servers[1].start() if fault == "killed" else servers[1].thaw()
        ingest_until(second, lambda: not second.metrics()["replay/parked_shards"], "the shard")
        ingest_until(second, lambda: not second.metrics()["replay/parked"], "its segments")
        check_accounts(run, second, scribe.acknowledged, lost=0, unread=0, missing=0)
        assert second.metrics()["replay/evicted"] > 0
        run.check(second, second.sample())
