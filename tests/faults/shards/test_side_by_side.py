"""Two live runs on the same two shards while these have no room for both; real servers and writers."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from replay.sampler import Sampler
from tests.helpers.deadline import until
from tests.helpers.replay.samplers import Run
from tests.helpers.shards.faulty_servers import (
    FaultyServer,
    Scribe,
    check_accounts,
    faulty_run,
    faulty_servers,
    said,
)

MEGABYTE = 1024**2
FRAMES = (60, 60)
"""Random ones, which do not compress: 16 steps are about 70 kB."""


@dataclass
class Training:
    """A run's owner and its one writer."""

    run: Run
    sampler: Sampler
    scribe: Scribe
    sizes: list[int] = field(default_factory=list)
    """Items that could be drawn, at each turn since the first eviction."""

    def turn(self) -> None:
        """Do as a learner does between two updates."""
        self.sampler.ingest()
        if self.sampler.metrics()["replay/evicted"]:
            self.sizes.append(self.sampler.size)
        while self.sampler.can_sample():
            self.run.check(self.sampler, self.sampler.sample())


def training(servers: list[FaultyServer], actor: int, steps: int, pause: float) -> Training:
    run = faulty_run(servers, min_size=100, error_buffer=200.0, frame_store_bytes=64 * MEGABYTE)
    run.signature = replace(run.signature, frame_shape=FRAMES)
    sampler = run.sampler(batch_size=16, samples_per_insert=4.0)
    return Training(run, sampler, Scribe(run, steps, actor=actor, end=0.0, pause=pause))


def test_two_runs_share_full_servers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each evicts its own segments only, both go on to their ends, and neither's account has a gap."""
    with faulty_servers(tmp_path, maxmemory=8 * MEGABYTE) as servers:
        fast, slow = training(servers, 0, 6_000, 0.0), training(servers, 1, 2_000, 0.01)
        with fast.scribe.writing(), slow.scribe.writing():

            def both_done() -> bool:
                fast.turn()
                slow.turn()
                return fast.scribe.done and slow.scribe.done

            until(both_done, "both runs", 90.0, pause=0.0)
        for one in (fast, slow):
            check_accounts(one.run, one.sampler, one.scribe.acknowledged, lost=0, unread=0, missing=0)
            metrics = one.sampler.metrics()
            assert metrics["replay/evicted"] > 500
            assert metrics["replay/samples_per_insert"] > 3.5  # of 4: it drew as much as it may
            assert min(one.sizes) > 0  # there was always something to draw
            assert stored(one.run) == one.sampler.table.num_segments
        assert said(caplog, "replay.owner.eviction", "is over 90 % of its memory")


def stored(run: Run) -> int:
    """Segments of this run in both servers."""
    return sum(len(shard.client.keys(f"apexpert:{{{run.name}:*:seg:*")) for shard in run.shards)
