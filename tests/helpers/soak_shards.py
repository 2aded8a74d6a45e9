"""The long form of tests/faults for shards: random faults on real servers beside writers and a sampler.

After each fault the sampler has to get everything back that is there, to draw only what the brute force makes
of the streams, and to account for every item that was acknowledged: indexed, evicted or counted as lost. Only
a power loss (a file's end cut off) may lose any. Prints one line a fault and a report as JSON.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from replay.types import SegmentIdentity
from tests.helpers.faulty_servers import (
    FaultyServer,
    Scribe,
    check_accounts,
    faulty_run,
    faulty_servers,
    ingest_until,
    quiet,
    shards_of,
)
from tests.helpers.samplers import Run

WRITERS, ROUND_STEPS = 3, 2_000


class Soak:
    """A run, its servers and whatever happens to them."""

    def __init__(self, run: Run, servers: list[FaultyServer], seed: int) -> None:
        self.run, self.servers = run, servers
        self.chance = random.Random(seed)
        self.sampler = run.sampler(store_bytes=200_000)
        self.acknowledged: list[SegmentIdentity] = []
        self.counts: Counter[str] = Counter()
        self.actors = 0
        self.lossy = False

    def round(self) -> str:
        """Some faults while writers write; then everything has to be accounted for."""
        scribes = [self._scribe() for _ in range(WRITERS)]
        faults: list[Callable[[], None]] = [
            self.kill, self.freeze, self.cut, self.rewrite_and_kill, self.start_again, self.stop_all,
        ]  # fmt: skip
        done = []
        with ExitStack() as writing:
            for scribe in scribes:
                writing.enter_context(scribe.writing())
            for _ in range(self.chance.randint(1, 4)):
                self._go_on(self.chance.uniform(0.0, 0.5))
                fault = self.chance.choice(faults)
                fault()
                done.append(fault.__name__)
                self.counts[fault.__name__] += 1
            ingest_until(self.sampler, lambda: all(s.done for s in scribes), "the writers' end", 120.0)
        for scribe in scribes:
            self.acknowledged += scribe.acknowledged
        self._check()
        return ", ".join(done)

    def kill(self) -> None:
        server = self._server()
        server.kill()
        self._go_on(self.chance.uniform(0.0, 1.0))
        server.start()

    def freeze(self) -> None:
        server = self._server()
        server.freeze()
        self._go_on(self.chance.uniform(0.0, 1.5))
        server.thaw()

    def cut(self) -> None:
        server = self._server()
        size = server.size
        self._go_on(self.chance.uniform(0.0, 0.5))
        server.kill()
        server.cut(min(server.size, max(size, server.size - 60_000) + self.chance.randint(0, 50)))
        self._go_on(self.chance.uniform(0.0, 0.5))
        server.start()
        self.lossy = True

    def rewrite_and_kill(self) -> None:
        server = self._server()
        server.client.bgrewriteaof()
        self._go_on(self.chance.uniform(0.0, 0.2))
        server.kill()
        server.start()

    def start_again(self) -> None:
        """The sampler starts again from a checkpoint, perhaps an old one, perhaps without a shard."""
        document, arrays = self.sampler.state()
        document = json.loads(json.dumps(document))
        self._go_on(self.chance.uniform(0.0, 0.5))
        server = self._server() if self.chance.random() < 0.5 else None
        if server is not None:
            server.kill()
        self.run.shards = shards_of(self.run)
        self.sampler.close()
        self.sampler = self.run.sampler(store_bytes=200_000)
        self.sampler.restore(document, arrays)
        if server is not None:
            server.start()

    def stop_all(self) -> None:
        for server in self.servers:
            server.kill()
        self._go_on(0.2)
        for server in self.servers:
            server.start()

    def _server(self) -> FaultyServer:
        return self.chance.choice(self.servers)

    def _scribe(self) -> Scribe:
        self.actors += 1
        return Scribe(self.run, ROUND_STEPS, actor=self.actors, pause=0.004)

    def _go_on(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.sampler.ingest()
            self._draw()
            time.sleep(0.002)

    def _draw(self) -> None:
        if self.sampler.can_sample():
            batch = self.sampler.sample()
            self.run.check(self.sampler, batch)
            priorities = np.abs(np.sin(batch.leaf * 0.3)) + 0.01
            self.sampler.update_priorities(batch.leaf, batch.generation, priorities)

    def _check(self) -> None:
        sampler = self.sampler
        ingest_until(sampler, lambda: not sampler.metrics()["replay/parked_shards"], "all shards", 60.0)
        ingest_until(sampler, lambda: not sampler.metrics()["replay/parked"], "what was parked", 60.0)
        check_accounts(
            self.run, sampler, self.acknowledged, **({} if self.lossy else {"lost": 0, "unread": 0})
        )
        for _ in range(20):
            self._draw()
        try:
            ingest_until(sampler, lambda: self._stored() == self._indexed(), "the deletions", 10.0)
        except AssertionError:
            raise AssertionError(
                f"stored, not indexed: {sorted(self._stored() - self._indexed())[:9]};"
                f" indexed, not stored: {sorted(self._indexed() - self._stored())[:9]}"
            ) from None

    def _stored(self) -> set[tuple[int, str]]:
        """Shard and name of every segment that is there."""
        keys = [(shard.index, key) for shard in self.run.shards for key in shard._client.keys("*:seg:*")]
        return {(shard, key.decode().rpartition(":")[2]) for shard, key in keys}

    def _indexed(self) -> set[tuple[int, str]]:
        table = self.sampler.table
        return {(int(table.slots["shard"][slot]), str(name)) for name, slot in table.slot_of.items()}


def soak(minutes: float, seed: int, folder: Path) -> dict[str, Any]:
    """Faults for so long; what happened."""
    with faulty_servers(folder, 3) as servers:
        one = Soak(faulty_run(servers, capacity=10_000, segment_steps=16), servers, seed)
        end, rounds = time.monotonic() + 60 * minutes, 0
        while time.monotonic() < end:
            faults = one.round()
            rounds += 1
            values = one.sampler.metrics()
            lost = values["replay/lost"] + values["replay/unread"]
            print(f"{one.sampler.inserted:,} inserted, {lost:,.0f} lost: {faults}", flush=True)
        quiet(one.sampler)
        metrics = {name.removeprefix("replay/"): value for name, value in one.sampler.metrics().items()}
    keys = ("inserted", "sampled", "evicted", "lost", "unread", "duplicates", "missing", "rejected")
    report = {"minutes": minutes, "seed": seed, "rounds": rounds, "faults": dict(one.counts)}
    return report | {key: metrics[key] for key in keys}
