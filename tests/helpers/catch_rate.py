"""How often the test that the whole system learns would fail wrongly: its run, with a seed after the other.

`python -m tests.helpers.catch_rate --runs 30 --output FILE` prints a line a run and writes every run's value,
their mean, standard deviation and how many of these the mean is above the test's threshold.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from deploy.fleet import launch
from deploy.run_folder import RunFolder
from tests.helpers.deadline import patient
from tests.helpers.runs import catch_config, metric

SETTINGS: dict[str, Any] = {
    "run__total_env_steps": 8_000,
    "learner__learning_rate": 1e-3,
    "learner__target_update_period": 50,
    "evaluation__every_env_steps": 4_000,
    "evaluation__episodes": 200,
}
"""Of the test, beside what `catch_config` has."""
THRESHOLD = 0.8
"""Of the optimum, for greedy games of the last checkpoint."""


def score(status: dict[str, Any]) -> float:
    """Mean return of greedy games of the last checkpoint; AssertionError where another one was evaluated."""
    assert status["state"] == "finished", status
    assert metric(status, "evaluation/env_steps") == metric(status, "replay/inserted"), status["notes"]
    return metric(status, "evaluation/return_mean")


def learned(seed: int, runs_dir: Path, ray_address: str = "") -> float:
    """The `score` of a run with this seed."""
    config = catch_config(runs_dir, run__seed=seed, run__ray_address=ray_address, **SETTINGS)
    folder = RunFolder.create(config)
    client = launch(folder.load_config(), folder, resume=False)
    try:
        status = client.wait_finished(patient(600))
    finally:
        client.shutdown()
    return score(status)


def report(values: list[float]) -> dict[str, Any]:
    """What the values say of the threshold."""
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    return {
        "runs": len(values),
        "threshold": THRESHOLD,
        "mean": round(mean, 4),
        "standard_deviation": round(deviation, 4),
        "standard_deviations_above": round((mean - THRESHOLD) / deviation, 2) if deviation else None,
        "lowest": min(values),
        "settings": SETTINGS,
        "values": values,
    }


def main() -> None:
    """Make the runs, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("catch-rate.json"))
    arguments = parser.parse_args()
    values: list[float] = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.runs):
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="apexpert-catch-") as folder:
            values.append(learned(seed, Path(folder)))
        print(f"seed {seed}: {values[-1]:.3f} in {time.monotonic() - begun:.0f} s", flush=True)
        if len(values) > 1:
            arguments.output.write_text(json.dumps(report(values), indent=1) + "\n")


if __name__ == "__main__":
    main()
