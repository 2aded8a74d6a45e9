"""`apexpert bench replay`: how fast the replay ingests, keeps and returns recorded Atari.

Production classes throughout: environments (recorded once, at the start), segment builder, writer, embedded
servers with append-only files, log reader, priority index, frame store, sampler. One random batch in a
hundred is compared with transitions built from the recording by brute force, and as many leaves of the large
index with the cumulative sum of its masses.
"""

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from deploy.bench.replay import parts as replay_parts
from deploy.bench.replay.recorded import GAMES, Recording, record
from deploy.bench.replay.setup import Setup
from deploy.bench.replay.tail import tail
from deploy.run.config import Config, to_json

__all__ = ["GAMES", "PARTS", "record_games", "run"]

ITEMS = 1_000_000
MOST_RECORDED = 16_384
"""Maximum steps recorded per game; more items are made by writing these again as other segments."""

PARTS: Mapping[str, Callable[[Setup], Iterator[dict[str, float]]]] = {
    "insert": replay_parts.insert,
    "sample": replay_parts.sample,
    "index": replay_parts.index,
    "bytes": replay_parts.size,
    "tail": tail,
    "ready": replay_parts.ready,
}
READY_PROCESS = "all repetitions in one process, whose start and loading of code are not counted"
AT_LEAST = {
    "insert_steps_per_s": 80_000,
    "sample_store_per_s": 150_000,
    "sample_redis_per_s": 40_000,
    "priority_updates_per_s": 3_000_000,
    "draws_per_s": 500_000,
    # The paced writer must nearly reach its `PACE`, or tailing was measured at a smaller rate.
    "tail_rate_steps_per_s": 9_500,
}
AT_MOST = {
    "bytes_per_step_ms_pacman": 750,
    "bytes_per_step_breakout": 250,
    "bytes_per_step_pong": 250,
    "ready_seconds_1m": 15,
    "tail_cost_percent": 5,
}


def run(
    config: Config,
    *,
    parts: Sequence[str] = (),
    items: int = ITEMS,
    seconds: float = 4.0,
    repeats: int = 3,
    recordings: Mapping[str, Recording] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Return medians of `repeats` measurements of about `seconds` each, for the `parts` (none named: all).

    `items` transitions are the full replay; the priority index has ten times as many. Keys: those of the
    parts, `goals` with each goal and whether it is met, `commands` with the servers' statistics by part,
    `repeats` with every single measurement, `transitions_checked` of `transitions_drawn`, `ready_process`,
    `load` (the machine's load average before and after) and `config`. Raises BenchmarkError when a draw is
    wrong.
    """
    load, begun = os.getloadavg()[0], time.monotonic()
    setup = Setup(config, recordings or record_games(config, items, report), items, seconds, report)
    singles = {name: _measure(name, setup, repeats, report) for name in parts or PARTS}
    medians = {
        key: statistics.median(one[key] for one in measured)
        for measured in singles.values()
        for key in measured[0]
    }
    return {
        "benchmark": "replay",
        **medians,
        "transitions_drawn": setup.drawn,
        "transitions_checked": setup.checked,
        "cores": len(os.sched_getaffinity(0)),
        "load": [load, os.getloadavg()[0]],
        "minutes": (time.monotonic() - begun) / 60,
        **({"ready_process": READY_PROCESS} if "ready" in singles else {}),
        "goals": goals(medians),
        "commands": {part: _table(commands) for part, commands in setup.commands.items()},
        "repeats": singles,
        "config": to_json(config),
    }


def _measure(name: str, setup: Setup, repeats: int, report: Callable[[str], None]) -> list[dict[str, float]]:
    """Return every single measurement of a part."""
    # A part is a generator, so that its repetitions can share what it has filled.
    measurements, singles = PARTS[name](setup), []
    for _ in range(repeats):
        measured = next(measurements)
        singles.append(measured)
        report(f"{name}: " + ", ".join(f"{key} {value:,.4g}" for key, value in measured.items()))
    # Leave the part's `with` blocks: commands are counted, and servers stop.
    measurements.close()  # type: ignore[attr-defined]
    return singles


def record_games(config: Config, items: int, report: Callable[[str], None]) -> dict[str, Recording]:
    """Record all games, each with a sixteenth of the items or MOST_RECORDED steps."""
    steps = min(MOST_RECORDED, max(items // 16, 8 * config.replay.segment_steps))
    recordings = {}
    for game in GAMES:
        start = time.monotonic()
        recordings[game] = record(game, config.environment, config.replay, steps=steps, seed=config.run.seed)
        recorded = recordings[game].num_steps
        report(f"recorded {recorded:,} steps of {game} in {time.monotonic() - start:.1f} s")
    return recordings


def goals(medians: Mapping[str, float]) -> dict[str, dict[str, float | bool]]:
    """Return, for each measured key that has a goal, the goal and whether it is met."""
    least = {
        key: {"at_least": float(goal), "met": medians[key] >= goal}
        for key, goal in AT_LEAST.items()
        if key in medians
    }
    most = {
        key: {"at_most": float(goal), "met": medians[key] <= goal}
        for key, goal in AT_MOST.items()
        if key in medians
    }
    return {**least, **most}


def _table(commands: Counter[str]) -> dict[str, dict[str, float]]:
    """Return calls, and microseconds per call, of each command, the most total time first."""
    names = sorted({key.split()[0] for key in commands}, key=lambda name: -commands[f"{name} usec"])
    return {
        name: {
            "calls": commands[f"{name} calls"],
            "usec_per_call": round(commands[f"{name} usec"] / max(commands[f"{name} calls"], 1), 2),
        }
        for name in names
    }
