"""`python -m tests.helpers.shards.owner_looks`: what one look of the owner costs by the number of shards.

A production Sampler looks at that many embedded servers, which have nothing new; prints JSON. docs/scaling.md
reckons with the line through it.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from replay.config import ReplayConfig
from replay.sampler import Sampler
from replay.servers.embedded import EmbeddedServers
from replay.shards.shard import Shard
from replay.types import Signature

LOOKS, ROUNDS = 200, 5


def measure(shards: int, folder: Path) -> dict[str, Any]:
    """Microseconds of one look, median over rounds: of this process's processor, and by the clock."""
    signature = Signature(frame_shape=(84, 84), stack=4, n_step=3, num_actions=18)
    config = ReplayConfig(capacity=1_000, min_size=100, frame_store_bytes=1_000_000)
    with EmbeddedServers(folder, shards=shards, append_fsync="everysec", maxmemory=64 * 1024**2) as servers:
        run = [Shard(url, run="looks", index=index) for index, url in enumerate(servers.urls)]
        options: dict[str, Any] = {"batch_size": 32, "samples_per_insert": 8.0, "seed": 0}
        sampler = Sampler(config, run, run="looks", signature=signature, **options)
        sampler.ingest()
        rounds = [_look(sampler) for _ in range(ROUNDS)]
        sampler.close()
    cpu, wall = (1e6 * median(times) / LOOKS for times in zip(*rounds, strict=True))
    return {"shards": shards, "cpu_us": cpu, "wall_us": wall}


def _look(sampler: Sampler) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(LOOKS):
        sampler.ingest()
    return time.process_time() - cpu, time.perf_counter() - wall


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(prog="owner_looks", description=__doc__)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 8, 32, 64])
    looks = []
    for shards in parser.parse_args(argv).shards:
        with tempfile.TemporaryDirectory(prefix="apexpert-looks-") as folder:
            looks.append(measure(shards, Path(folder) / "replay"))
    print(json.dumps({"looks": looks}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
