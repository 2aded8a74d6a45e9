"""Evaluation of checkpoints during the run, and of the last one at its end, as a Ray task."""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from deploy.fleet.processes.role import Assignment
from deploy.fleet.ray.nodes import reason
from deploy.fleet.reporting.log import log_to
from deploy.fleet.reporting.telemetry import Telemetry
from deploy.run import import_path
from deploy.run.folder import RunFolder

logger = logging.getLogger(__name__)

WAIT_SECONDS = 0.2
LAST_ATTEMPTS = 2


def evaluate_newest(assignment: Assignment, after_update: int) -> dict[str, Any] | None:
    """Evaluate the newest checkpoint and mark it if it is the best; None if not newer than `after_update`.

    The report contains a `warning` if the mark could not be written.
    """
    import torch

    from deploy.reports.evaluation import evaluate_checkpoint
    from learner.checkpoint import CheckpointStore

    config, run = assignment.config, RunFolder(Path(assignment.folder))
    # A worker of Ray's does not search the folders of the user's own modules.
    import_path.search_also(assignment.users_folders)
    log_to(run.log_path, "evaluation")
    # One thread: an evaluation takes its core from training.
    torch.set_num_threads(1)
    store = CheckpointStore(run.checkpoints, config.learner.keep_checkpoints)
    checkpoint = store.load_newest()
    if checkpoint is None or checkpoint.update <= after_update:
        return None
    # The learner saves other checkpoints meanwhile; this one must still exist to be marked as the best.
    with store.pinned(checkpoint.path):
        episodes, seed = config.evaluation.episodes, config.run.seed
        report = evaluate_checkpoint(config, checkpoint, episodes=episodes, seed=seed).to_json()
        try:
            store.mark_best(checkpoint.path, float(report["return_mean"]))
        except OSError as error:  # A full disk: the games are played, and their report needs no file.
            report["warning"] = f"{checkpoint.path.name} cannot be marked as the best: {error.strerror}"
    logger.info("evaluated %s in process %d: %s", checkpoint.path.name, os.getpid(), report)
    return {**report, "update": checkpoint.update, "env_steps": int(checkpoint.document["env_steps"])}


class Evaluator:
    """Starts an evaluation every so many env steps, one at a time, on the node that has the run's folder."""

    def __init__(self, assignment: Assignment, place: Any, telemetry: Telemetry) -> None:
        """`place`: Ray's scheduling strategy for the run's core, which has the run's folder."""
        self._assignment, self._telemetry = assignment.without_secrets(), telemetry
        self._every = assignment.config.evaluation.every_env_steps
        # No CPU of Ray's: on a node whose cores are all taken by actors it would wait forever.
        self._remote: Any = ray.remote(evaluate_newest).options(
            num_cpus=0, max_retries=0, scheduling_strategy=place
        )
        self._due = 0.0
        # A resumed run keeps to the periods of its earlier legs.
        self._after(telemetry.before.get("evaluation/env_steps", 0.0))
        self._update = -1
        self._task: Any = None

    def step(self, learner: Mapping[str, float]) -> None:
        """Start an evaluation that is due, and collect one that is done."""
        env_steps = learner.get("progress/env_steps", 0.0)
        if self._task is not None:
            self._look(0)
        elif self._every and env_steps >= self._due:
            self._after(env_steps)
            self._start()

    def finish(self, gives_up: Callable[[], bool]) -> None:
        """Wait for the evaluation under way, then evaluate the last checkpoint, until `gives_up` is true.

        Tries once more if that fails: no later evaluation would show how well the last weights play.
        """
        if not self._every:
            return
        self._wait(gives_up)
        for _ in range(LAST_ATTEMPTS):
            if gives_up():
                return
            self._start()
            if self._wait(gives_up):
                return

    def cancel(self) -> None:
        """End the evaluation under way."""
        if self._task is not None:
            ray.cancel(self._task, force=True)
            self._task = None
            self._telemetry.note("the run ends before its last evaluation did")

    def _after(self, env_steps: float) -> None:
        if self._every:
            self._due = (env_steps // self._every + 1) * self._every

    def _start(self) -> None:
        self._task = self._remote.remote(self._assignment, self._update)

    def _wait(self, gives_up: Callable[[], bool]) -> bool:
        """Wait until no evaluation is under way; return whether it succeeded."""
        well = True
        while self._task is not None and not gives_up():
            well = self._look(WAIT_SECONDS)
        self.cancel()
        return well

    def _look(self, seconds: float) -> bool:
        """Collect the evaluation if it ends within `seconds`; return False if it failed."""
        if not ray.wait([self._task], timeout=seconds)[0]:
            return True
        task, self._task = self._task, None
        try:
            report = ray.get(task)
        except RayError as error:
            self._telemetry.note(f"evaluation failed: {reason(error)}")
            return False
        if report is None:
            return True
        self._update = report["update"]
        if "warning" in report:
            self._telemetry.note(report["warning"])
        names = ("return_mean", "human_normalised", "env_steps")
        known = {name: report[name] for name in names if report.get(name) is not None}
        self._telemetry.write({f"evaluation/{name}": float(value) for name, value in known.items()})
        return True
