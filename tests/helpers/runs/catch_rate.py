"""How often the test that the whole system learns would fail wrongly: its run, with a seed after the other.

`python -m tests.helpers.runs.catch_rate --runs 30 --output FILE` prints a line a run and writes the
evaluations of every run, the mean and standard deviation of their best, and how many of these it is above the
threshold.

The best counts, because at this learning rate a policy that was perfect loses a column of the board now and
then and has it back 100 updates later: of the last checkpoints of 59 runs 57 scored at least 0.98, the others
0.77 and 0.67 (benchmarks/results/2026-11-28-catch-last-checkpoints.json).
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deploy.fleet import launch
from deploy.monitor.metrics import read_metrics
from deploy.run.folder import RunFolder
from tests.helpers.deadline import patient
from tests.helpers.runs.catch_runs import catch_config, metric

SETTINGS: dict[str, Any] = {
    "run__total_env_steps": 8_000,
    "learner__learning_rate": 1e-3,
    "learner__target_update_period": 50,
    "evaluation__every_env_steps": 2_000,
    "evaluation__episodes": 100,
}
"""Of the test, beside what `catch_config` has."""
THRESHOLD = 0.8
"""Of the optimum, for greedy games of the best checkpoint."""


def evaluations(status: dict[str, Any], folder: RunFolder) -> list[float]:
    """Mean returns of greedy games, by evaluated checkpoint; AssertionError if the last was not one."""
    assert status["state"] == "finished", status
    assert metric(status, "evaluation/env_steps") == metric(status, "replay/inserted"), status["notes"]
    rows = [row for row in read_metrics(folder.metrics_path) if "evaluation/env_steps" in row]
    return list({row["evaluation/env_steps"]: row["evaluation/return_mean"] for row in rows}.values())


def learned(seed: int, runs_dir: Path, ray_address: str = "") -> list[float]:
    """The `evaluations` of a run with this seed."""
    config = catch_config(runs_dir, run__seed=seed, run__ray_address=ray_address, **SETTINGS)
    folder = RunFolder.create(config)
    client = launch(folder.load_config(), folder, resume=False)
    try:
        status = client.wait_finished(patient(600))
    finally:
        client.shutdown()
    return evaluations(status, folder)


def report(runs: dict[int, list[float]]) -> dict[str, Any]:
    """Report what the runs' evaluations say of the threshold."""
    values = [max(scores) for scores in runs.values()]
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    return {
        "runs": len(runs),
        "threshold": THRESHOLD,
        "mean": round(mean, 4),
        "standard_deviation": round(deviation, 4),
        "standard_deviations_above": round((mean - THRESHOLD) / deviation, 2) if deviation else None,
        "lowest": min(values),
        "below_the_threshold": {"best": _below(values), "last": _below(x[-1] for x in runs.values())},
        "settings": SETTINGS,
        "evaluations_by_seed": runs,
    }


def _below(values: Iterable[float]) -> int:
    return sum(value < THRESHOLD for value in values)


def main() -> None:
    """Make the runs, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("catch-rate.json"))
    arguments = parser.parse_args()
    runs: dict[int, list[float]] = {}
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.runs):
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="apexpert-catch-") as folder:
            runs[seed] = learned(seed, Path(folder))
        print(f"seed {seed}: {runs[seed]} in {time.monotonic() - begun:.0f} s", flush=True)
        if len(runs) > 1:
            arguments.output.write_text(json.dumps(report(runs), indent=1) + "\n")


if __name__ == "__main__":
    main()
