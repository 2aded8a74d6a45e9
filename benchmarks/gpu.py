"""The whole measurement of a machine with a GPU: one call, one table.

    python benchmarks/gpu.py --out benchmarks/results

Writes `<date>-gpu-<device>.json` and `.md`. Without a GPU it measures the CPU, which shows that the script
works; `--seconds 1 --no-run` keeps that short.
"""

import argparse
import datetime
import json
import os
import re
from pathlib import Path
from typing import Any

import torch

from actors.environments import describe_environment
from deploy.bench import end_to_end, learner, limits
from deploy.run.config import Config, with_values
from deploy.run.metadata import hardware
from deploy.run.presets import get_preset
from learner.update.precision import choose_device

PRESETS = ("paper-rainbow", "paper-dqn", "der", "apex", "laptop")
PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    """Measure everything and write both files."""
    arguments = parse()
    results: dict[str, Any] = {"hardware": hardware(), "rows": []}
    for preset in arguments.presets:
        config = with_values(get_preset(preset), environment__game="breakout")
        results["rows"].append(measure(preset, config, arguments))
        print(json.dumps(results["rows"][-1]), flush=True)
    name = f"{datetime.date.today().isoformat()}-gpu-{device_name()}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.out / f"{name}.md").write_text(table(results["rows"]))
    print(table(results["rows"]))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    parser.add_argument("--presets", nargs="+", default=PRESETS, choices=PRESETS)
    parser.add_argument("--no-run", action="store_true", help="leave out the whole runs (fleet and Redis)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


def measure(preset: str, config: Config, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a preset: train step in both precisions, learner with sampler, difference to the CPU, a run."""
    row: dict[str, Any] = {"preset": preset, "batch_size": config.learner.batch_size}
    for precision in PRECISIONS:
        exact = with_values(config, learner__precision=precision)
        speed = limits.update_samples_per_s(exact, seconds=arguments.seconds)
        row[f"update_samples_per_s_{precision}"] = speed
    row["max_abs_difference_to_cpu"] = difference_to_cpu(config)
    row["learner_samples_per_s"] = learner.run(config, seconds=arguments.seconds)["learner_samples_per_s"]
    if not arguments.no_run:
        free = max(1, len(os.sched_getaffinity(0)) - 2)
        actors = min(config.actors.range.nearest(free), free)
        fleet = with_values(config, actors__num_actors=actors)
        measured = end_to_end.run(fleet, seconds=4 * arguments.seconds, repeats=1, limit_seconds=2.0)
        row |= {key: measured[key] for key in ("agent_steps_per_s", "limit", "ratio_of_limit")}
    return row


def difference_to_cpu(config: Config) -> float:
    """Largest difference of the values of 32 random states, float32, on the device and on the CPU."""
    import numpy as np

    spec = describe_environment(config.environment)
    batch = limits.random_batch(config, spec, np.random.default_rng(0))
    states = torch.from_numpy(batch.observation[:32])
    values = []
    for device in ("cpu", str(choose_device("auto"))):
        step = limits.make_train_step(
            with_values(config, learner__precision="float32", learner__device=device), spec
        )
        with torch.no_grad():
            values.append(step.online_network(states.to(step.device)).q_values.cpu())
    return float((values[0] - values[1]).abs().max())


def device_name() -> str:
    """A file name's part: the GPU, or the number of cores."""
    if not torch.cuda.is_available():
        return f"none-cpu-{len(os.sched_getaffinity(0))}-cores"
    return re.sub(r"\W+", "-", torch.cuda.get_device_name()).strip("-").lower()


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [" | ".join(keys), " | ".join("---" for _ in keys)]
    lines += [" | ".join(_cell(row.get(key)) for key in keys) for row in rows]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return (
        f"{value:,.3g}"
        if isinstance(value, float) and value < 100
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


if __name__ == "__main__":
    main()
