"""Faults that happen to shards and to their sampler, one method each."""

import json
import random
import time
from collections.abc import Callable

import numpy as np
import redis

from replay.errors import StaleOwner
from replay.sampler import Sampler
from replay.shards.records import LOG_START, log_order
from tests.helpers.deadline import until
from tests.helpers.replay.samplers import Run
from tests.helpers.shards.faulty_servers import FaultyServer, ingest_until, shards_of

AHEAD_MS = 3_600_000


class Faults:
    """A run, its servers and whatever happens to them."""

    def __init__(self, run: Run, servers: list[FaultyServer], seed: int) -> None:
        self.run, self.servers = run, servers
        self.chance = random.Random(seed)
        self.sampler = self._new_sampler()
        self.lossy = False
        self.was_cut = False
        self.set_back: list[FaultyServer] = []
        """Servers whose entries have ids of a time when their clock was ahead."""
        self.all: list[Callable[[], None]] = [
            self.kill, self.freeze, self.slow, self.cut, self.cut_with_its_clock_set_back,
            self.rewrite_and_kill, self.start_again, self.second_owner, self.stop_all,
            self.out_of_memory, self.disk_full, self.trim, self.flush, self.add,
        ]  # fmt: skip

    def kill(self) -> None:
        server = self._server()
        server.kill()
        self.go_on(self.chance.uniform(0.0, 1.0))
        server.start()

    def freeze(self) -> None:
        server = self._server()
        server.freeze()
        self.go_on(self.chance.uniform(0.0, 1.5))
        server.thaw()

    def slow(self) -> None:
        """Let the server answer later than anybody waits."""
        pause = ("CLIENT", "PAUSE", self.chance.randint(100, 1500))
        self._server().client.execute_command(*pause)  # type: ignore[no-untyped-call]
        self.go_on(1.0)

    def cut(self, server: FaultyServer | None = None) -> None:
        server = server or self._server()
        size = server.size
        self.go_on(self.chance.uniform(0.0, 0.5))
        server.kill()
        server.cut(min(server.size, max(size, server.size - 60_000) + self.chance.randint(0, 50)))
        self.go_on(self.chance.uniform(0.0, 0.5))
        server.start()
        self.lossy = self.was_cut = True
        if server in self.set_back:
            # The remains of a transaction cut in two may cost one segment at the next start, where ids come
            # again (docs/decisions/0010); a new file has none.
            server.client.bgrewriteaof()
            ingest_until(self.sampler, lambda: not server.is_rewriting(), "a new file")

    def cut_with_its_clock_set_back(self) -> None:
        """From now on its entries have ids as of before, when the clock was ahead."""
        server = self._server()
        log = self._log(server)
        newest = server.client.xrevrange(log, count=1)
        if newest:
            log_id = newest[0][0]
            assert isinstance(log_id, bytes)
            now, _ = log_order(log_id.decode())
            server.client.execute_command("XSETID", log, f"{now + AHEAD_MS}-0")  # type: ignore[no-untyped-call]
        self.set_back.append(server)
        self.cut(server)

    def out_of_memory(self) -> None:
        """Let the server take no more, until the owner has made room."""
        server = self._server()
        used = int(server.client.info("memory")["used_memory"])
        server.client.config_set("maxmemory", used + 10_000)
        self.go_on(1.0)
        server.client.config_set("maxmemory", 0)

    def disk_full(self) -> None:
        server = self._server()
        server.limit_file(server.size + 3_000)
        self.go_on(1.0)
        server.limit_file()
        # It notices at its next attempt to write, once a second.
        ingest_until(self.sampler, lambda: not server.refuses(), "the disk's room")
        # As the guardian does (replay/servers/append_only_file.py).
        ingest_until(self.sampler, lambda: _begins_new_file(server), "a new file")

    def trim(self) -> None:
        """Somebody trims its log past the reader, and deletes what it named."""
        server = self._server()
        shard = self.run.shards[self.servers.index(server)]
        gone = shard.read_log(LOG_START, 100_000)
        if gone:
            time_ms, number = log_order(gone[-1].log_id)
            server.client.delete(*[shard.segment_key(row.identity) for row in gone if row.identity])
            server.client.xtrim(shard.log, minid=f"{time_ms}-{number + 1}", approximate=False)
        self.lossy = True

    def flush(self) -> None:
        """All of its keys are gone."""
        self._server().client.flushall()
        self.lossy = True

    def rewrite_and_kill(self) -> None:
        server = self._server()
        server.client.bgrewriteaof()
        self.go_on(self.chance.uniform(0.0, 0.2))
        server.kill()
        server.start()

    def start_again(self) -> None:
        """The sampler starts again from a checkpoint, perhaps an old one, perhaps without a shard."""
        document, arrays = self.sampler.state()
        document = json.loads(json.dumps(document))
        self.go_on(self.chance.uniform(0.0, 0.5))
        server = self._server() if self.chance.random() < 0.5 else None
        if server is not None:
            server.kill()
        self.run.shards = shards_of(self.run)
        self.sampler.close()
        self.sampler = self._new_sampler()
        self.sampler.restore(document, arrays)
        if server is not None:
            server.start()

    def second_owner(self) -> None:
        """Another sampler goes on from a checkpoint while the first one is still there."""
        first, state = self.sampler, self.sampler.state()
        self.run.shards = shards_of(self.run)
        self.sampler = self._new_sampler()
        self.sampler.restore(*state)
        until(lambda: _is_stale(first), "the first one's end")
        first.close()

    def add(self) -> None:
        """Add one shard for the sampler and, from the next round on, for writers; once."""
        if len(self.run.urls) < len(self.servers):
            self.run.urls = [server.url for server in self.servers]
            self.run.shards = [*self.run.shards, shards_of(self.run)[-1]]
            self.sampler.add_shard(shards_of(self.run)[-1])

    def stop_all(self) -> None:
        for server in self.servers:
            server.kill()
        self.go_on(0.2)
        for server in self.servers:
            server.start()

    def go_on(self, seconds: float) -> None:
        """Ingest and draw, as a learner does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.sampler.ingest()
            self.draw()
            time.sleep(0.002)

    def draw(self) -> None:
        """Draw a batch if there is one, check it and give it priorities."""
        if self.sampler.can_sample():
            batch = self.sampler.sample()
            self.run.check(self.sampler, batch)
            priorities = np.abs(np.sin(batch.leaf * 0.3)) + 0.01
            self.sampler.update_priorities(batch.leaf, batch.generation, priorities)

    def _new_sampler(self) -> Sampler:
        return self.run.sampler(store_bytes=200_000)

    def _server(self) -> FaultyServer:
        return self.chance.choice(self.servers[: len(self.run.urls)])

    def _log(self, server: FaultyServer) -> str:
        return self.run.shards[self.servers.index(server)].log


def _begins_new_file(server: FaultyServer) -> bool:
    try:
        return bool(server.client.bgrewriteaof())
    except redis.ResponseError:
        return False  # one is being written


def _is_stale(sampler: Sampler) -> bool:
    try:
        sampler.ingest()
    except StaleOwner:
        return True
    return False
