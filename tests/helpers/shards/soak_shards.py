"""The long form of tests/faults for shards: random faults on real servers beside writers and a sampler.

After each round of them the sampler has to get everything back that is there, to draw only what the brute
force makes of the streams, and to account for every item that was acknowledged: indexed, evicted or counted
as lost. Only a round with a power loss (a file's end cut off), a trimmed log or a flushed server may lose
any. Prints one line a round and a report as JSON.
"""

import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from replay.types import SegmentIdentity
from tests.helpers.shards.faulty_servers import (
    Scribe,
    check_accounts,
    faulty_run,
    faulty_servers,
    ingest_until,
    quiet,
)
from tests.helpers.shards.soak_faults import Faults

WRITERS, ROUND_STEPS = 3, 2_000


class Soak:
    """Rounds of faults beside writers, and what has to hold after each."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.acknowledged: list[SegmentIdentity] = []
        self.counts: Counter[str] = Counter()
        self.actors = 0
        self.lost = 0.0
        self.wrongly_lost = 0.0

    def round(self) -> str:
        """Some faults while writers write; then everything has to be accounted for."""
        scribes = [self._scribe() for _ in range(WRITERS)]
        # By a writer's last segment shows what was lost of those before.
        last = [scribe.segments.pop() for scribe in scribes]
        done = []
        self.faults.lossy = False
        with ExitStack() as writing:
            for scribe in scribes:
                writing.enter_context(scribe.writing())
            for _ in range(self.faults.chance.randint(1, 4)):
                self.faults.go_on(self.faults.chance.uniform(0.0, 0.5))
                fault = self.faults.chance.choice(self.faults.all)
                print(f"{fault.__name__} ...", flush=True)
                fault()
                done.append(fault.__name__)
                self.counts[fault.__name__] += 1
            ingest_until(self.faults.sampler, lambda: all(s.done for s in scribes), "the writers' end", 120.0)
        for scribe, segment in zip(scribes, last, strict=True):
            scribe.segments.append(segment)
            scribe.write()
            scribe.writer.close()
            self.acknowledged += scribe.acknowledged
        self._check()
        return ", ".join(done)

    def _scribe(self) -> Scribe:
        self.actors += 1
        return Scribe(self.faults.run, ROUND_STEPS, actor=self.actors, pause=0.004)

    def _check(self) -> None:
        sampler = self.faults.sampler
        ingest_until(sampler, lambda: not sampler.metrics()["replay/parked_shards"], "all shards", 60.0)
        ingest_until(sampler, lambda: not sampler.metrics()["replay/parked"], "what was parked", 60.0)
        check_accounts(self.faults.run, sampler, self.acknowledged)
        values = sampler.metrics()
        lost, self.lost = self.lost, values["replay/lost"] + values["replay/unread"]
        self.wrongly_lost += 0 if self.faults.lossy else self.lost - lost
        assert not self.wrongly_lost, f"{self.wrongly_lost} lost by faults that lose nothing"
        for _ in range(20):
            self.faults.draw()
        try:
            ingest_until(sampler, self._is_in_step, "the deletions", 10.0)
        except AssertionError:
            raise AssertionError(
                f"stored, not indexed: {sorted(self._stored() - self._indexed())[:9]};"
                f" indexed, not stored: {sorted(self._indexed() - self._stored())[:9]}"
            ) from None

    def _is_in_step(self) -> bool:
        """Whether what is stored is indexed, and the reverse too unless a transaction was cut in two.

        Then an entry may be named again whose segment is in memory only (docs/decisions/0010).
        """
        stored, indexed = self._stored(), self._indexed()
        return stored <= indexed and (stored == indexed or self.faults.was_cut)

    def _stored(self) -> set[tuple[int, str]]:
        """Shard and name of every segment that is there."""
        keys = [
            (shard.index, key) for shard in self.faults.run.shards for key in shard.client.keys("*:seg:*")
        ]
        return {(shard, key.decode().rpartition(":")[2]) for shard, key in keys}

    def _indexed(self) -> set[tuple[int, str]]:
        table = self.faults.sampler.table
        return {(int(table.slots["shard"][slot]), str(name)) for name, slot in table.slot_of.items()}


def soak(minutes: float, seed: int, folder: Path) -> dict[str, Any]:
    """Faults for so long; what happened."""
    with faulty_servers(folder, 3) as servers:
        print(f"shards: seed {seed}", flush=True)
        faults = Faults(faulty_run(servers[:-1], capacity=10_000, segment_steps=16), servers, seed)
        one = Soak(faults)
        end, rounds = time.monotonic() + 60 * minutes, 0
        while time.monotonic() < end:
            happened = one.round()
            rounds += 1
            values = faults.sampler.metrics()
            lost = values["replay/lost"] + values["replay/unread"]
            print(f"{faults.sampler.inserted:,} inserted, {lost:,.0f} lost: {happened}", flush=True)
        quiet(faults.sampler)
        metrics = {name.removeprefix("replay/"): value for name, value in faults.sampler.metrics().items()}
    keys = ("inserted", "sampled", "evicted", "lost", "unread", "duplicates", "missing", "rejected")
    report = {"minutes": minutes, "seed": seed, "rounds": rounds, "faults": dict(one.counts)}
    # `lost` and `unread` are of power losses, trimmed logs and flushed servers.
    report["acknowledged_items_lost_by_other_faults"] = one.wrongly_lost
    return report | {key: metrics[key] for key in keys}
