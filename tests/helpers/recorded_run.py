"""Folders of runs that have records and were never run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.monitor.metrics import MetricsSink

ALL, GREEDY = "episode/return_mean_100", "episode/return_mean_100_greedy"
EXPLORING = "episode/return_mean_100_exploring"


def record_run(
    folder: Path,
    records: Sequence[Mapping[str, float]],
    *,
    game: str = "pong",
    seed: int = 1,
    step: int = 10**6,
    episodes: Sequence[tuple[int, float, float]] = (),
    **sections: Mapping[str, Any],
) -> Path:
    """Make a run with `records` at 1, 2, 3 ... times `step` env steps, an hour each.

    `episodes` are env steps, return and epsilon; `sections` are more of its configuration.
    """
    folder.mkdir()
    config = {"environment": {"game": game, "env": ""}, "run": {"seed": seed}}
    (folder / "config.json").write_text(json.dumps(config | sections))
    sink = MetricsSink(folder)
    for number, record in enumerate(records, 1):
        sink.write({"progress/seconds": 3600.0 * number, **record}, env_steps=number * step)
    sink.close()
    with (folder / "episodes.jsonl").open("w") as file:
        for env_steps, value, epsilon in episodes:
            line = {"env_steps": env_steps, "return": value, "length": 1, "leg": 0, "epsilon": epsilon}
            file.write(json.dumps(line) + "\n")
    return folder
