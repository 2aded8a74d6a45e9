"""Our replay beside dm-reverb, in turns on the same frames: prints one table, writes one JSON file.

    python3.11 -m venv /tmp/reverb && /tmp/reverb/bin/pip install -r benchmarks/peers/reverb/requirements.txt
    .venv/bin/python benchmarks/peers/reverb/compare.py --python /tmp/reverb/bin/python --out FILE.json

Every round measures both, one right after the other; what is compared are the medians of the rounds. Both get
single env steps, build the same n-step transitions with stacks of 4 frames, and have their server processes
and the client on all cores. Ours adds append-only files and importance weights, which Reverb has not.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.bench.end_to_end import default_config
from deploy.bench.replay import replay
from deploy.bench.replay.recorded import Recording
from deploy.run.config import to_json

FIELDS = ("frames", "newest", "first", "actions", "rewards", "terminated")
ROWS = (
    # label, our key, Reverb's key, ratio to reach (more is better: ours / theirs)
    ("insert, env steps/s", "build_and_insert_steps_per_s", "insert_steps_per_s", 5.0),
    ("sample through the server, transitions/s", "sample_redis_per_s", "sample_per_s", 2.0),
    ("sample with the frame store, transitions/s", "sample_store_per_s", "sample_per_s", 6.0),
)
BYTES = "memory, bytes an env step"


def main() -> None:
    """Record once, measure in turns, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", required=True, help="interpreter of Reverb's environment")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement")
    parser.add_argument("--items", type=int, default=200_000, help="transitions in our replay when sampled")
    arguments = parser.parse_args()
    config = default_config()
    recordings = replay.record_games(config, arguments.items, note)
    load, rounds = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.npz"
        save(recordings, path)
        for number in range(arguments.rounds):
            ours = replay.run(
                config,
                parts=("insert", "sample", "bytes"),
                items=arguments.items,
                seconds=arguments.seconds,
                repeats=1,
                recordings=recordings,
            )
            theirs = measure_reverb(arguments.python, path, arguments.seconds, config.replay.n_step)
            rounds.append({"apexpert": ours, "reverb": theirs})
            note(
                f"round {number + 1}: "
                + "; ".join(f"{row['what']} {row['ratio']:.1f}x" for row in table(rounds))
            )
    rows = table(rounds)
    print_table(rows)
    document = {
        "benchmark": "replay beside dm-reverb",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["benchmarks/peers/reverb/compare.py", *sys.argv[1:]]),
        "cores": len(os.sched_getaffinity(0)),
        "load": [load, os.getloadavg()[0]],
        "steps_recorded": {game: recording.num_steps for game, recording in recordings.items()},
        "table": rows,
        "rounds": [without_configs(one) for one in rounds],
        "config": to_json(config),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")


def save(recordings: Mapping[str, Recording], path: Path) -> None:
    """The streams as Reverb's side reads them: `game/env/field`, games and environments by number."""
    arrays = {
        f"{number}/{env}/{field}": getattr(stream, field)
        for number, recording in enumerate(recordings.values())
        for env, stream in recording.streams.items()
        for field in FIELDS
    }
    np.savez(path, **arrays)


def measure_reverb(python: str, recording: Path, seconds: float, n_step: int) -> dict[str, Any]:
    """Run measure.py once; raises CalledProcessError with its messages printed."""
    script = Path(__file__).with_name("measure.py")
    flags = ["--recording", str(recording), "--seconds", str(seconds), "--n-step", str(n_step)]
    done = subprocess.run([python, str(script), *flags], capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        done.check_returncode()
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def table(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Medians over the rounds, with their ratios and the ratios to reach."""
    rows: list[dict[str, Any]] = []
    for what, our_key, their_key, goal in ROWS:
        ours = statistics.median(one["apexpert"][our_key] for one in rounds)
        theirs = statistics.median(one["reverb"][their_key] for one in rounds)
        ratio = ours / theirs
        row = {
            "what": what,
            "apexpert": ours,
            "reverb": theirs,
            "ratio": ratio,
            "goal": goal,
            "met": ratio >= goal,
        }
        rows.append(row)
    ours = statistics.median(
        statistics.mean(one["apexpert"][f"bytes_per_step_{game}"] for game in replay.GAMES) for one in rounds
    )
    theirs = statistics.median(one["reverb"]["bytes_per_step"] for one in rounds)
    return [*rows, {"what": BYTES, "apexpert": ours, "reverb": theirs, "ratio": theirs / ours}]


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one Markdown table."""
    print("| | Apexpert | dm-reverb 0.14 | ratio | goal |")
    print("|---|---:|---:|---:|---:|")
    for row in rows:
        goal = f"{row['goal']:g}x" if "goal" in row else ""
        numbers = f"{row['apexpert']:,.0f} | {row['reverb']:,.0f} | {row['ratio']:.1f}x"
        print(f"| {row['what']} | {numbers} | {goal} |")


def without_configs(one: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A round without our configuration, which is the same in all."""
    return {
        side: {key: value for key, value in part.items() if key != "config"} for side, part in one.items()
    }


def note(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
