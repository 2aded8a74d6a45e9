"""The tailing part of the replay benchmark: its speed, and its cost beside other work."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from deploy.bench.replay.local_replay import RUN
from deploy.bench.replay.paced_writer import paced_writer
from deploy.bench.replay.setup import Servers, Setup
from learner.batches import seconds_to_next_look
from replay.sampler import Sampler
from replay.segments.codec import encode

PACE = 10_000
"""Env steps per second written while the main thread is busy."""
PAIRS = 4
"""Pairs of stretches for each kind of work, alternately without and with tailing."""
MOST_TAILED = 200_000
MATRIX = np.ones((64, 64), np.float32)


def _products() -> None:
    """Spend about 0.1 ms like a learner's thread: in small steps inside a library."""
    for _ in range(16):
        MATRIX @ MATRIX


def _bytecode() -> None:
    """Spend about 0.1 ms in Python's interpreter alone."""
    total = 0
    for number in range(3_000):
        total += number * number


WORKS: dict[str, Callable[[], None]] = {"tail_cost_percent": _products, "tail_cost_python_percent": _bytecode}


def tail(setup: Setup) -> Iterator[dict[str, float]]:
    """Measure the speed of tailing, and what it costs a busy thread.

    The speed is env steps per second ingested from a backlog by a full sampler, so that as many are evicted.
    The cost is the share of a busy thread's work that is lost when it tails 10,000 steps per second as the
    learner does. Writer and servers run in both cases.
    """
    while True:
        with setup.servers("tail") as servers:
            items = servers.fill(min(setup.items, MOST_TAILED))
            sampler = servers.sampler(capacity=max(items // 4, 4 * setup.config.replay.segment_steps))
            few = max(2, items // setup.config.replay.segment_steps // 8)
            # The first half fills the sampler, a few segments at a time, to stop close to the half.
            while sampler.inserted < items // 2:
                sampler.ingest(few)
            before, start = sampler.inserted, time.perf_counter()
            _catch_up(sampler)
            speed = (sampler.inserted - before) / (time.perf_counter() - start)
            setup.check(sampler, sampler.sample())
            yield {"tail_steps_per_s": speed, **_cost(setup, servers, sampler)}


def _cost(setup: Setup, servers: Servers, sampler: Sampler) -> dict[str, float]:
    encoded = [
        encode(segment, RUN, setup.signature)
        for recording in setup.recordings.values()
        for segment in recording.segments[:64]
    ]
    lost: dict[str, list[float]] = {name: [] for name in WORKS}
    rates, shares, cpus = [], [], []
    with paced_writer(servers.urls, RUN, setup.signature, encoded, PACE):
        while not sampler.ingest():
            pass
        for name in list(WORKS) * PAIRS:
            # In pairs, close in time, as the machine's load changes. Each stretch begins caught up,
            # so that it does not pay for the backlog of the one before.
            _catch_up(sampler)
            alone = _busy(WORKS[name], None, setup.seconds / 2)
            _catch_up(sampler)
            before = sampler.inserted
            beside = _busy(WORKS[name], sampler, setup.seconds / 2)
            lost[name].append(1 - beside.rounds / alone.rounds)
            shares.append(beside.inside)
            cpus.append(beside.cpu)
            rates.append((sampler.inserted - before) / beside.seconds)
    return {
        **{name: 100 * statistics.median(values) for name, values in lost.items()},
        "tail_ingest_percent": 100 * statistics.median(shares),
        "tail_ingest_cpu_percent": 100 * statistics.median(cpus),
        "tail_rate_steps_per_s": statistics.median(rates),
    }


class _Stretch(NamedTuple):
    """One stretch of work."""

    rounds: float
    """Rounds of work per second."""
    inside: float
    """Share of the time in `ingest`."""
    cpu: float
    """Share of a core that `ingest` used."""
    seconds: float


def _busy(work: Callable[[], None], sampler: Sampler | None, seconds: float) -> _Stretch:
    rounds, inside, cpu, next_ingest = 0, 0.0, 0.0, 0.0
    start, ends = time.perf_counter(), False
    while not ends:
        now = time.perf_counter()
        ends = now - start >= seconds  # The last round ingests the rest before the clock stops.
        if sampler is not None and (now >= next_ingest or ends):
            # CPU time of this thread: waiting for a shard's answer costs no core.
            cpu -= time.thread_time()
            sampler.ingest()
            cpu += time.thread_time()
            took = time.perf_counter() - now
            inside += took
            # The learner's own pause between two looks (docs/decisions/0016).
            next_ingest = now + took + seconds_to_next_look(took)
        work()
        rounds += 1
    elapsed = time.perf_counter() - start
    return _Stretch(rounds / elapsed, inside / elapsed, cpu / elapsed, elapsed)


def _catch_up(sampler: Sampler) -> None:
    while sampler.ingest():
        pass
