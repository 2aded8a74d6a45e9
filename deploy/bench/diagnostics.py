"""`apexpert bench diagnostics`: the cost of one diagnosis, and its share of the time spent on updates."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from actors.environments import EnvironmentSpec, describe_environment
from deploy.bench import limits
from deploy.run.config import Config, to_json, with_values
from deploy.run.presets import PRESETS
from learner.diagnostics.diagnostics import Diagnostics
from learner.diagnostics.spread import ROWS
from learner.update.train_step import TrainStep
from replay.types import Batch


def run(config: Config, *, seconds: float = 4.0, report: limits.Report = limits.silent) -> dict[str, Any]:
    """Measure an update and a diagnosis for the network and batch of each preset.

    Environment, device, precision and threads are `config`'s. Gives seconds of both (medians over about
    `seconds` each) and the percentage of a learner's time that diagnoses take at the preset's period when the
    learner does nothing but updates. A run also acts, draws and waits: its share is lower, and is the metric
    `diagnostics/time_share`.
    """
    spec = describe_environment(config.environment)
    result: dict[str, Any] = {"benchmark": "diagnostics"}
    for place, (name, preset) in enumerate(PRESETS.items(), 1):
        learner = config.learner
        preset = with_values(
            preset,
            learner__device=learner.device,
            learner__precision=learner.precision,
            learner__cpus=learner.cpus,
        )
        measured = _measure(preset, spec, seconds)
        result |= {f"{name}_{key}": value for key, value in measured.items()}
        report(f"{place} of {len(PRESETS)}: {name}: {measured['percent']:.1f} % of the learner's time")
    result["largest_percent"] = max(result[f"{name}_percent"] for name in PRESETS)
    return result | {"config": to_json(config)}


def _measure(config: Config, spec: EnvironmentSpec, seconds: float) -> dict[str, float]:
    batch = limits.random_batch(config, spec, np.random.default_rng(config.run.seed))
    with limits.threads(config.learner.cpu_threads):
        train_step = limits.make_train_step(config, spec)
        update = _median_update(train_step, batch, seconds)
        diagnosis = _median_diagnosis(train_step, batch, seconds)
    period = config.learner.diagnostics_period
    percent = 100 * diagnosis / (period * update + diagnosis)
    return {"update_seconds": update, "seconds": diagnosis, "period": float(period), "percent": percent}


def _median_update(train_step: TrainStep, batch: Batch, seconds: float) -> float:
    measured: list[float] = []
    # Not timed: the first update gets fresh memory, which later ones reuse (docs/decisions/0007).
    train_step.step(batch)
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or not measured:
        begun = time.perf_counter()
        train_step.step(batch)
        measured.append(time.perf_counter() - begun)
    return statistics.median(measured)


def _median_diagnosis(train_step: TrainStep, batch: Batch, seconds: float) -> float:
    measured: list[float] = []
    period = -(-ROWS // len(batch.action))  # Enough batches for all the states of a diagnosis.
    with tempfile.TemporaryDirectory() as folder:
        diagnostics = Diagnostics(
            train_step,
            period,
            folder=Path(folder),
            # A diagnosis times itself, because the update between its two halves is no part of it.
            write=lambda metrics: measured.append(metrics["diagnostics/seconds"]),
        )
        start, update = time.perf_counter(), 0
        while time.perf_counter() - start < seconds or len(measured) < 2:  # The first diagnosis is a warm-up.
            update += 1
            with diagnostics.watch(update, 0, batch):
                train_step.step(batch)
    return statistics.median(measured[1:])
