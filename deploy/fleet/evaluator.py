"""Evaluation of checkpoints while the run goes on, as a Ray task beside it."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from deploy.config import Config
from deploy.fleet.log import log_to
from deploy.fleet.telemetry import Telemetry
from deploy.run_folder import RunFolder

logger = logging.getLogger(__name__)


@ray.remote(num_cpus=1, max_retries=0)
def evaluate_newest(config: Config, folder: str, after_update: int) -> dict[str, Any] | None:
    """Evaluate the newest checkpoint, mark it if it is the best; None if not newer than `after_update`."""
    import torch

    from deploy.reports.evaluation import evaluate_checkpoint
    from learner.checkpoint import CheckpointStore

    run = RunFolder(Path(folder))
    log_to(run.log_path, "evaluation")
    torch.set_num_threads(1)
    store = CheckpointStore(run.checkpoints, config.learner.keep_checkpoints)
    checkpoint = store.load_newest()
    if checkpoint is None or checkpoint.update <= after_update:
        return None
    episodes, seed = config.evaluation.episodes, config.run.seed
    report = evaluate_checkpoint(config, checkpoint, episodes=episodes, seed=seed).to_json()
    store.mark_best(checkpoint.path, float(report["return_mean"]))
    logger.info("evaluated %s in process %d: %s", checkpoint.path.name, os.getpid(), report)
    return {**report, "update": checkpoint.update, "env_steps": int(checkpoint.document["env_steps"])}


class Evaluator:
    """Starts an evaluation every so many env steps, one at a time."""

    def __init__(self, config: Config, folder: RunFolder, telemetry: Telemetry) -> None:
        self._config, self._folder, self._telemetry = config, folder, telemetry
        self._due = config.evaluation.every_env_steps
        self._update = -1
        self._task: Any = None

    def step(self, learner: Mapping[str, float]) -> None:
        """Start what is due, and take in what is done."""
        every = self._config.evaluation.every_env_steps
        env_steps = learner.get("progress/env_steps", 0.0)
        if self._task is not None and ray.wait([self._task], timeout=0)[0]:
            self._take()
        elif self._task is None and every and env_steps >= self._due:
            self._due = (int(env_steps) // every + 1) * every
            self._task = evaluate_newest.remote(self._config, str(self._folder.path), self._update)

    def _take(self) -> None:
        task, self._task = self._task, None
        try:
            report = ray.get(task)
        except RayError as error:
            self._telemetry.note(f"evaluation failed: {' '.join(str(error).split())[:200]}")
            return
        if report is None:
            return
        self._update = report["update"]
        names = ("return_mean", "human_normalised", "env_steps")
        known = {name: report[name] for name in names if report.get(name) is not None}
        self._telemetry.write({f"evaluation/{name}": float(value) for name, value in known.items()})
