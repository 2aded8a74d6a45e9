"""`python -m tests.helpers.shards.many_writers`: many production Writers on few shards, at a given rate each.

Every writer has connections of its own and writes prepared segments of real Atari frames when they are due,
as an actor would that plays so fast. Prints what the servers and the writers took, as JSON; the constants of
docs/scaling.md come from it. With --owner a production Sampler tails, allows and evicts meanwhile; else
everything is allowed and nothing leaves.
"""

import argparse
import heapq
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.queues import Queue
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np

from actors.config import EnvironmentConfig
from deploy.bench.replay.recorded import record
from replay.config import ReplayConfig
from replay.sampler import Sampler
from replay.servers.embedded import EmbeddedServers
from replay.shards.shard import Shard
from replay.types import Segment, SegmentIdentity, Signature
from replay.writer import Writer
from tests.helpers.shards.server_statistics import commands, cpu_seconds, statistics, written_to_disk

INGEST_SECONDS = 0.005
"""A learner looks for new segments so often."""
RUN = "many-writers"
UNLIMITED = 10**15
STARTUP_S = 0.5
"""Between the moment when all writers are connected and their first segment."""
PREPARED_STEPS = 4_000
"""Env steps recorded of each game."""
CAPACITY = 200_000
"""Items that the owner keeps."""


@dataclass(frozen=True)
class Load:
    """Load that is asked for."""

    connections: int
    steps_per_second: float
    seconds: float
    processes: int
    shards: int
    owner: bool
    games: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """Work of one process of writers."""

    segments: int
    steps: int
    latencies: list[float]
    """Seconds that each write took, tickets included."""
    late: list[float]
    """Seconds by which each write began after it was due."""
    cpu_s: float
    retries: int


def prepared_segments(
    games: Sequence[str], replay: ReplayConfig, steps: int
) -> tuple[list[Segment], Signature]:
    """Full segments of these games, as production actors write them."""
    recordings = [record(game, EnvironmentConfig(), replay, steps=steps) for game in games]
    segments = [
        segment
        for recording in recordings
        for segment in recording.segments
        if segment.num_items == replay.segment_steps
    ]
    return segments, recordings[0].signature


def write_for(
    load: Load,
    urls: Sequence[str],
    segments: Sequence[Segment],
    signature: Signature,
    actors: Sequence[int],
    gate: Barrier,
    start_at: "Synchronized[float]",
    answers: "Queue[Written]",
) -> None:
    """Write in one process: its writers' segments are due at even intervals, with phases spread out.

    It passes the gate twice: when its writers are connected, and when it is known when to start.
    """
    writers = {actor: _writer(urls, signature, actor) for actor in actors}
    gate.wait()
    gate.wait()
    start = start_at.value
    period = segments[0].num_items / load.steps_per_second
    due = [(start + period * (actor + 0.5) / load.connections, actor, 0) for actor in actors]
    heapq.heapify(due)
    latencies, late, steps = [], [], 0
    cpu = time.process_time()
    while due[0][0] < start + load.seconds:
        at, actor, seq = due[0]
        time.sleep(max(0.0, at - time.time()))
        segment = replace(segments[(actor + seq) % len(segments)], identity=SegmentIdentity(actor, 0, seq))
        began = time.time()
        late.append(began - at)
        writers[actor].write(segment)
        latencies.append(time.time() - began)
        steps += segment.num_items
        heapq.heapreplace(due, (at + period, actor, seq + 1))
    cpu = time.process_time() - cpu
    retries = sum(writer.counters.retries for writer in writers.values())
    answers.put(Written(len(latencies), steps, latencies, late, cpu, retries))


def _writer(urls: Sequence[str], signature: Signature, actor: int) -> Writer:
    shards = [Shard(url, run=RUN, index=index) for index, url in enumerate(urls)]
    for shard in shards:
        shard.ping()  # connects
    return Writer(shards, run=RUN, signature=signature, first_shard=actor)


@contextmanager
def servers(load: Load) -> Iterator[EmbeddedServers]:
    """Embedded servers with append-only files, in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="apexpert-load-") as folder:
        settings: dict[str, Any] = {"append_fsync": "everysec", "maxmemory": 8 * 1024**3}
        with EmbeddedServers(Path(folder) / "replay", shards=load.shards, **settings) as started:
            yield started


def run(load: Load) -> dict[str, Any]:
    """Apply the load to fresh servers and measure."""
    replay = ReplayConfig(capacity=CAPACITY, min_size=1, error_buffer=1e15, frame_store_bytes=2 * 1024**3)
    segments, signature = prepared_segments(load.games, replay, PREPARED_STEPS)
    with servers(load) as started:
        urls = started.urls
        owner = _owner(load, urls, replay, signature)
        context = multiprocessing.get_context("fork")
        answers: Queue[Written] = context.Queue()
        gate, start_at = context.Barrier(load.processes + 1), context.Value("d")
        parts = [range(first, load.connections, load.processes) for first in range(load.processes)]
        processes = [
            context.Process(
                target=write_for, args=(load, urls, segments, signature, part, gate, start_at, answers)
            )
            for part in parts
        ]
        for process in processes:
            process.start()
        # Between the last connection and the first segment, so that this is all that is counted.
        gate.wait()
        before, pids = [statistics(url) for url in urls], [pid for pid in started.pids if pid]
        cpu, disk = [cpu_seconds(pid) for pid in pids], [written_to_disk(pid) for pid in pids]
        start_at.value = start = time.time() + STARTUP_S
        gate.wait()
        tailed = _tail(owner, load, start, urls)
        written = [answers.get(timeout=load.seconds + 60) for _ in processes]
        wall = time.time() - start
        after = [statistics(url) for url in urls]
        cpu = [cpu_seconds(pid) - earlier for pid, earlier in zip(pids, cpu, strict=True)]
        disk = [written_to_disk(pid) - earlier for pid, earlier in zip(pids, disk, strict=True)]
        for process in processes:
            process.join()
    per_step = {"disk_bytes_a_step": sum(disk) / sum(w.steps for w in written)}
    return _report(load, written, before, after, cpu, wall) | per_step | tailed


def _owner(load: Load, urls: Sequence[str], replay: ReplayConfig, signature: Signature) -> Sampler | None:
    shards = [Shard(url, run=RUN, index=index) for index, url in enumerate(urls)]
    if not load.owner:
        for shard in shards:
            shard.owning.set_allowed(UNLIMITED)
        return None
    options: dict[str, Any] = {"batch_size": 32, "samples_per_insert": 1e-9, "seed": 0}
    sampler = Sampler(replay, shards, run=RUN, signature=signature, **options)
    sampler.ingest()
    return sampler


def _tail(owner: Sampler | None, load: Load, start: float, urls: Sequence[str]) -> dict[str, Any]:
    """Until the load ends: ingest as a learner would, and look at the connections half-way."""
    half: list[dict[str, Any]] = []
    cpu, calls, slowest = time.process_time(), 0, 0.0
    while time.time() < start + load.seconds:
        if not half and time.time() > start + load.seconds / 2:
            half = [statistics(url) for url in urls]
        began = time.perf_counter()
        if owner is not None:
            owner.ingest()
        took = time.perf_counter() - began
        slowest, calls = max(slowest, took), calls + 1
        time.sleep(max(0.0, INGEST_SECONDS - took))
    half = half or [statistics(url) for url in urls]
    connections = [told["connected_clients"] for told in half]
    answer: dict[str, Any] = {
        "connections_a_shard": connections,
        "client_bytes_a_connection": sum(s["mem_clients_normal"] for s in half) / sum(connections),
    }
    if owner is not None:
        cpu = time.process_time() - cpu
        steps = owner.inserted
        answer["owner"] = {
            "steps": steps,
            "cpu_share": cpu / load.seconds,
            "cpu_us_a_step": 1e6 * cpu / max(1, steps),
            "slowest_ingest_s": slowest,
            "ingest_calls": calls,
            "evicted": owner.counters.evicted,
        }
    return answer


def _report(
    load: Load,
    written: Sequence[Written],
    before: Sequence[dict[str, Any]],
    after: Sequence[dict[str, Any]],
    cpu: Sequence[float],
    wall: float,
) -> dict[str, Any]:
    segments, steps = sum(w.segments for w in written), sum(w.steps for w in written)

    def grown(name: str) -> float:
        return float(sum(a[name] - b[name] for a, b in zip(after, before, strict=True)))

    latencies = np.array([value for w in written for value in w.latencies])
    late = np.array([value for w in written for value in w.late])
    return {
        "load": vars(load) | {"games": list(load.games)},
        "server": str(after[0].get("valkey_version") or after[0]["redis_version"]),
        "seconds": wall,
        "segments": segments,
        "steps": steps,
        "steps_per_s": steps / wall,
        "asked_steps_per_s": load.connections * load.steps_per_second,
        "write_ms": {name: 1e3 * float(np.quantile(latencies, q)) for name, q in QUANTILES.items()},
        "late_ms": {name: 1e3 * float(np.quantile(late, q)) for name, q in QUANTILES.items()},
        "retries": sum(w.retries for w in written),
        "writers_cpu_us_a_segment": 1e6 * sum(w.cpu_s for w in written) / segments,
        "server_cpu_share": [seconds / wall for seconds in cpu],
        "server_cpu_us_a_segment": 1e6 * sum(cpu) / segments,
        "commands_a_segment": grown("total_commands_processed") / segments,
        "net_in_bytes_a_segment": grown("total_net_input_bytes") / segments,
        "net_out_bytes_a_segment": grown("total_net_output_bytes") / segments,
        "server_bytes_a_step": grown("used_memory_dataset") / steps,
        "commands": commands(before, after, segments),
    }


QUANTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


def raise_file_limit(files: int) -> None:
    """Let this process and its children open so many files; SystemExit when the system forbids it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < files:
        if hard != resource.RLIM_INFINITY and hard < files:
            sys.exit(f"--connections: {files} open files are needed, the system allows {hard} (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, apply the load, print JSON."""
    parser = argparse.ArgumentParser(prog="many_writers", description=__doc__)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--steps-per-second", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--owner", action="store_true")
    parser.add_argument("--games", nargs="+", default=["ms_pacman"])
    given = vars(parser.parse_args(argv))
    load = Load(**given | {"games": tuple(given["games"])})
    raise_file_limit(load.connections * load.shards + 200)
    print(json.dumps(run(load), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
