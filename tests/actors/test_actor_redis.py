"""An actor against real Redis: what it writes is what the replay reads, and stopping loses nothing."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from replay.log.reader import LogReader
from replay.servers.embedded import EmbeddedServers
from replay.shards.shard import Shard
from replay.types import Signature
from replay.writer import Writer
from tests.helpers.actors.acting import RETURNS, Watch, make_actor
from tests.helpers.deadline import patient, until
from tests.helpers.replay.brute_force import brute_force_items
from tests.helpers.replay.streams import assert_same_items, items_of
from tests.helpers.shards.commands import read_new

SIGNATURE = Signature((84, 84), 4, 3, 3)


@pytest.fixture
def shards(tmp_path) -> Iterator[list[Shard]]:
    with EmbeddedServers(tmp_path, shards=2, append_fsync="everysec", maxmemory=2**28) as servers:
        opened = [Shard(url, run="run", index=index) for index, url in enumerate(servers.urls)]
        yield opened
        for shard in opened:
            shard.close()


def test_stopped_while_it_waits_for_allowance_an_actor_loses_nothing(shards) -> None:
    stop = threading.Event()
    writer = Writer(shards, run="run", signature=SIGNATURE, should_stop=stop.is_set)
    actor = make_actor(writer=writer)
    watch = Watch(actor)
    for shard in shards:
        shard.owning.set_allowed(50)  # a hundred items in all, then the actor has to wait
    thread = threading.Thread(target=actor.run, args=(stop.is_set,), daemon=True)
    thread.start()
    until(lambda: actor.metrics()["actors/waiting_share"] > 0.5 and writer.counters.items >= 90, "a wait")
    assert writer.counters.items < 150
    stop.set()
    thread.join(patient(30))
    assert not thread.is_alive()
    reader = LogReader(shards, run="run", signature=SIGNATURE)
    received = []
    until(lambda: not received.extend(new := read_new(reader, 1000)) and not new, "the log's end")
    segments = sorted((r.segment for r in received), key=lambda s: s.identity)
    assert [s.identity.seq for s in segments] == list(range(len(segments)))
    for env in range(3):
        items = [i for s in segments if s.env_slot == env for i in items_of(s, stack=4, n_step=3, **RETURNS)]
        assert_same_items(items, brute_force_items(watch.stream(env), stack=4, n_step=3, **RETURNS))
    assert np.sum([s.num_items for s in segments]) == actor.metrics()["actors/env_steps"]
