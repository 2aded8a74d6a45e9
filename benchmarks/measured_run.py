"""Print the mean returns of a run of docs/runs, window by window, as deploy/reports/data has them.

python benchmarks/measured_run.py docs/runs/NAME > deploy/reports/data/measured_runs.json
"""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from deploy.reports.seeds.bands import window_of

WINDOW = 50_000


def measured(folder: Path) -> dict[str, Any]:
    """Preset, game, seed, and the mean return of the episodes that ended in each `WINDOW` env steps."""
    config = json.loads((folder / "config.json").read_text())
    with gzip.open(folder / "episodes.jsonl.gz", "rt") as lines:
        episodes = [json.loads(line) for line in lines]
    windows: list[list[float]] = [[] for _ in range(-(-config["run"]["total_env_steps"] // WINDOW))]
    for episode in episodes:
        number = window_of(episode["env_steps"], WINDOW)
        if number < len(windows):  # A few end after the last env step that counts.
            windows[number].append(episode["return"])
    means = [round(float(np.mean(window)), 1) for window in windows]
    run = config["run"]
    game = config["environment"]["game"]
    found = {"run": folder.name, "preset": run["preset"], "game": game, "seed": run["seed"]}
    return found | {"window": WINDOW, "means": means}


if __name__ == "__main__":
    print(json.dumps([measured(Path(name)) for name in sys.argv[1:]], indent=1))
