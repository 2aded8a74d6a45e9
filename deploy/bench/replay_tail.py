"""The part of the replay benchmark about tailing: how fast it goes, and what it costs beside other work."""

import statistics
import time
from collections.abc import Iterator

from deploy.bench.local_replay import RUN
from deploy.bench.paced_writer import paced_writer
from deploy.bench.replay_setup import Servers, Setup
from learner.learner import seconds_to_next_look
from replay.sampler import Sampler
from replay.segment import encode

PACE = 10_000
"""Env steps a second that are written while the main thread is busy."""
WINDOWS = 10
"""Stretches of work, in turns without and with tailing; each pair gives one figure."""
WORK = 3_000
"""Rounds of the busy loop between two looks at the clock: about 0.2 ms."""
MOST_TAILED = 200_000


def tail(setup: Setup) -> Iterator[dict[str, float]]:
    """Env steps a second taken in from a backlog by a sampler that is full, so that as many leave; and the
    share of a busy Python thread's work that is lost when it tails 10,000 steps a second, at the learner's
    period. Writer and servers run in both cases.
    """
    while True:
        with setup.servers("tail") as servers:
            items = servers.fill(min(setup.items, MOST_TAILED))
            sampler = servers.sampler(capacity=max(items // 4, 4 * setup.config.replay.segment_steps))
            few = max(2, items // setup.config.replay.segment_steps // 8)
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
    works: dict[bool, list[float]] = {False: [], True: []}
    rates, shares, cpus = [], [], []
    with paced_writer(servers.urls, RUN, setup.signature, encoded, PACE):
        while not sampler.ingest():
            pass
        for window in range(WINDOWS):
            _catch_up(sampler)
            tails, before = window % 2 == 1, sampler.inserted
            work, share, cpu, elapsed = _busy(sampler if tails else None, setup.seconds / 2)
            works[tails].append(work)
            if tails:
                shares.append(share)
                cpus.append(cpu)
                rates.append((sampler.inserted - before) / elapsed)
    lost = [1 - beside / alone for alone, beside in zip(works[False], works[True], strict=True)]
    return {
        "tail_cost_percent": 100 * statistics.median(lost),
        "tail_ingest_percent": 100 * statistics.median(shares),
        "tail_ingest_cpu_percent": 100 * statistics.median(cpus),
        "tail_rate_steps_per_s": statistics.median(rates),
    }


def _busy(sampler: Sampler | None, seconds: float) -> tuple[float, float, float, float]:
    """Rounds of work a second, `ingest`'s share of the time and of one core, and the seconds it took."""
    rounds, inside, cpu, next_ingest = 0, 0.0, 0.0, 0.0
    start = time.perf_counter()
    ends = False
    while not ends:
        now = time.perf_counter()
        ends = now - start >= seconds  # what came since the last look is taken before the clock stops
        if sampler is not None and (now >= next_ingest or ends):
            cpu -= time.thread_time()
            sampler.ingest()
            cpu += time.thread_time()
            took = time.perf_counter() - now
            inside += took
            next_ingest = now + took + seconds_to_next_look(took)
        total = 0
        for number in range(WORK):
            total += number * number
        rounds += 1
    elapsed = time.perf_counter() - start
    return rounds / elapsed, inside / elapsed, cpu / elapsed, elapsed


def _catch_up(sampler: Sampler) -> None:
    while sampler.ingest():
        pass
