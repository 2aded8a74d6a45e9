"""The parts of the replay benchmark: each takes the setup and yields measurements of its keys."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.bench.errors import BenchmarkError
from deploy.bench.replay.setup import Servers, Setup, set_priorities
from replay.items.priority_index import PriorityIndex
from replay.sampler import Sampler
from replay.types import Segment

BATCH = 256
INDEX_BATCH = 512
INDEX_ITEMS_PER_ITEM = 10
"""The priority index is measured with this many times the items of the full replay."""
MOST_SAMPLED = 200_000
"""Transitions in the replay that batches are drawn from; their frames are far larger than any cache."""
MOST_SIZED = 100_000
"""Env steps of each game whose bytes are counted."""
CHECK_EVERY = 100
"""One batch in this many is compared with brute force: 1 % of what was drawn."""
ROUNDING = 1e-10
"""Relative to the sum of ten million masses: a thousandth of one mass."""
WARM_BATCHES = 20


def insert(setup: Setup) -> Iterator[dict[str, float]]:
    """Measure acknowledged env steps per second of one writer in this process.

    `insert_` starts from segments (encoding, compression, tickets, commits), `build_and_insert_` from single
    env steps, which the segment builder collects. All games count equally.
    """
    sources: dict[str, Callable[[int, str], Iterable[Segment]]] = {
        "insert": lambda turn, game: [segment for segment, _ in setup.segments(turn, (game,))],
        "build_and_insert": lambda turn, game: setup.recordings[game].build(
            actor=list(setup.recordings).index(game), incarnation=turn
        ),
    }
    while True:
        result = {}
        for name, source in sources.items():
            with setup.servers("insert") as servers:
                rates = {game: _insert(setup, servers, game, source) for game in setup.recordings}
            # The harmonic mean is the rate of writing equally many steps of each game.
            result[f"{name}_steps_per_s"] = statistics.harmonic_mean(rates.values())
            result |= {f"{name}_steps_per_s_{game}": rate for game, rate in rates.items()}
        yield result


def _insert(
    setup: Setup, servers: Servers, game: str, source: Callable[[int, str], Iterable[Segment]]
) -> float:
    writer, spent = servers.writer(), 0.0
    turns = itertools.count()
    while spent < setup.seconds / len(setup.recordings):
        segments = source(next(turns), game)
        start = time.perf_counter()
        # For `build_and_insert` this is a generator, so that the loop also times building the segments.
        for segment in segments:
            writer.write(segment)
        spent += time.perf_counter() - start
    return writer.counters.items / spent


def sample(setup: Setup) -> Iterator[dict[str, float]]:
    """Measure transitions per second from the frame store on one core, and from Redis on all cores."""
    with setup.servers("sample") as servers:
        capacity = servers.fill(min(setup.items, MOST_SAMPLED))
        samplers = {}
        for name, store_bytes in (("store", None), ("redis", 0)):
            sampler = servers.sampler(capacity=capacity, batch_size=BATCH, store_bytes=store_bytes)
            # This takes the shards from the sampler made before, which only draws from then on.
            sampler.rebuild()
            set_priorities(sampler, seed=0)
            samplers[name] = sampler
        while True:
            result: dict[str, float] = {}
            for name, sampler in samplers.items():
                result |= {f"sample_{name}_{key}": value for key, value in _draw(setup, sampler).items()}
            yield result


def _draw(setup: Setup, sampler: Sampler) -> dict[str, float]:
    """Draw batches; check a random one in CHECK_EVERY, outside the timed stretches.

    It is checked before the next batch is drawn, so that it is not held while others are timed.
    """
    for _ in range(WARM_BATCHES):
        sampler.sample()
    cpu, elapsed, batches = 0.0, 0.0, 0
    while elapsed < setup.seconds:
        chosen = int(setup.random.integers(1, CHECK_EVERY + 1))
        for count in (chosen, CHECK_EVERY - chosen):
            # Let go of the last batch: only memory nobody holds is reused (docs/decisions/0016).
            batch = None
            cpu_start, start = time.process_time(), time.perf_counter()
            for _ in range(count):
                batch = sampler.sample()
            elapsed += time.perf_counter() - start
            cpu += time.process_time() - cpu_start
            if count == chosen and batch is not None:
                setup.check(sampler, batch)
        batches += CHECK_EVERY
    setup.drawn += batches * BATCH
    return {"per_s": batches * BATCH / elapsed, "cores": cpu / elapsed}


def index(setup: Setup) -> Iterator[dict[str, float]]:
    """Measure priorities set and leaves drawn per second on one core, in batches, in a large index.

    One random batch of leaves in CHECK_EVERY is checked, after the timing.
    """
    capacity = setup.items * INDEX_ITEMS_PER_ITEM
    random = np.random.default_rng(0)
    tree = PriorityIndex(capacity)
    tree.load(random.exponential(size=capacity) + 1e-6, 1.0)
    batches = 1000
    # Made beforehand: random numbers must not be timed.
    leaves = random.integers(0, capacity, (batches, INDEX_BATCH))
    masses = random.exponential(size=(batches, INDEX_BATCH))
    # One point in each of INDEX_BATCH equal strata, as the sampler draws.
    points = (np.arange(INDEX_BATCH) + random.random((batches, INDEX_BATCH))) / INDEX_BATCH
    while True:
        drawn: dict[int, NDArray[np.int64]] = {}
        updates_per_s, _ = _calls(lambda i: tree.set(leaves[i], masses[i]), batches, setup.seconds)
        # After the updates, because the check needs the masses that the leaves were drawn by.
        draws_per_s, done = _calls(
            lambda i: drawn.__setitem__(i, tree.draw(points[i])),  # noqa: B023
            batches,
            setup.seconds,
        )
        some = setup.random.permutation(list(drawn))[: max(1, done // CHECK_EVERY)]
        check_draws(tree, points[some], np.stack([drawn[i] for i in some]))
        yield {
            "priority_updates_per_s": updates_per_s,
            "draws_per_s": draws_per_s,
            "draws_checked": float(len(some) * INDEX_BATCH),
            "index_items": float(capacity),
        }


def _calls(call: Callable[[int], Any], batches: int, seconds: float) -> tuple[float, int]:
    """Return items per second of calls with batch numbers, and how many calls were made."""
    done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds / 2 or done == 0:
        for batch in range(done % batches, min(done % batches + 50, batches)):
            call(batch)
            done += 1
    return done * INDEX_BATCH / elapsed, done


def check_draws(tree: PriorityIndex, points: NDArray[np.float64], leaves: NDArray[np.int64]) -> None:
    """Compare leaves with where the points fall in the masses' cumulative sum; raise BenchmarkError.

    The leaves of a tree whose size is not a power of two lie on two levels: the lower level comes first.
    """
    masses, first = tree.masses(), (1 << (tree.capacity - 1).bit_length()) - tree.capacity
    ends = np.cumsum(np.roll(masses, -first))
    above, slack = ends[(leaves - first) % tree.capacity] - points * ends[-1], ROUNDING * ends[-1]
    if not ((above >= -slack) & (above <= masses[leaves] + slack)).all():
        raise BenchmarkError("leaves are not drawn in proportion to their priorities")


def size(setup: Setup) -> Iterator[dict[str, float]]:
    """Measure the bytes of an env step in Redis, all overheads included, and in the log files, by game."""
    while True:
        result = {}
        for game in setup.recordings:
            with setup.servers("size") as servers:
                # What empty servers use is no part of an env step.
                memory, disk = servers.used_bytes(), servers.disk_bytes()
                steps = servers.fill(min(setup.items, MOST_SIZED), (game,))
                result[f"bytes_per_step_{game}"] = (servers.used_bytes() - memory) / steps
                result[f"disk_bytes_per_step_{game}"] = (servers.disk_bytes() - disk) / steps
        yield result


def ready(setup: Setup) -> Iterator[dict[str, float]]:
    """Measure the seconds until a sampler starting on a full replay can draw: index, priorities, frames.

    `ready_seconds` starts from the logs alone, `restore_seconds` from a checkpoint's state. All repetitions
    run in this process: starting a process and loading its code are not included.
    """
    # `ready_seconds_1m` is the key that has a goal (`AT_MOST` in replay.py).
    suffix = "1m" if setup.items == 1_000_000 else str(setup.items)
    with setup.servers("ready") as servers:
        items = servers.fill(setup.items)
        setup.report(
            f"ready: filled with {items:,} transitions, {servers.used_bytes() / 1e6:,.0f} MB in Redis"
        )
        while True:
            sampler, seconds = _started(servers, items, lambda sampler: sampler.rebuild())
            set_priorities(sampler, seed=0)
            document, arrays = sampler.state()
            setup.check(sampler, sampler.sample())
            del sampler  # Free its frame store before the next one is allocated.
            sampler, again = _started(servers, items, lambda sampler: sampler.restore(document, arrays))  # noqa: B023
            setup.check(sampler, sampler.sample())
            del sampler
            yield {f"ready_seconds_{suffix}": seconds, f"restore_seconds_{suffix}": again}


def _started(servers: Servers, items: int, start: Callable[[Sampler], Any]) -> tuple[Sampler, float]:
    begun = time.perf_counter()
    sampler = servers.sampler(capacity=items, batch_size=BATCH)
    start(sampler)
    elapsed = time.perf_counter() - begun
    assert sampler.size == items, f"{sampler.size} of {items} items"
    return sampler, elapsed
