"""Contents of a sampler and of a shard's log, and draws that are checked."""

import numpy as np

from replay.sampler import Sampler
from replay.shards.shard import LOG_START
from replay.types import SegmentIdentity
from tests.helpers.replay.samplers import Run


def held(sampler: Sampler) -> set[SegmentIdentity]:
    return set(sampler.table.slot_of)


def logged(run: Run, shard: int) -> list[SegmentIdentity]:
    entries = run.shards[shard].read_log(LOG_START, 100_000)
    return [entry.identity for entry in entries if entry.identity is not None]


def draws(run: Run, sampler: Sampler, count: int = 5) -> None:
    for _ in range(count):
        batch = sampler.sample()
        run.check(sampler, batch)
        sampler.update_priorities(batch.leaf, batch.generation, np.abs(np.cos(batch.leaf)) + 0.1)
