"""Periodic diagnoses during training: metrics `diagnostics/...`, arrays in files, and their cost."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from learner.diagnostics.diagnosis import Before, diagnose, look_before, spread_of
from learner.diagnostics.files import save_arrays
from learner.diagnostics.spread import ROWS
from learner.update.train_step import TrainStep
from replay.types import Batch

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Diagnostics:
    """Watches updates and diagnoses every `period`-th (0: none); belongs to the learner's thread.

    Arrays go to files below `folder` (`learner.diagnostics.files`): `entk` float32 (rows, rows),
    `dispatch_share` and `combine_share` float32 (E,), `update` and `env_steps` int64 (). A file that cannot
    be written is logged and skipped. A diagnosis that fails is logged and is the last; training continues.
    """

    def __init__(
        self,
        train_step: TrainStep,
        period: int,
        *,
        folder: Path,
        write: Callable[[Mapping[str, float]], None],
    ) -> None:
        """`write` receives the metrics of a diagnosis."""
        self._train_step, self._period = train_step, period
        self._folder, self._write = folder, write
        self._recent: deque[NDArray[np.uint8]] = deque(maxlen=ROWS)
        """Copies of the observations of the last batches before a diagnosis."""
        self._seconds = 0.0
        self._start: float | None = None

    @contextmanager
    def watch(self, update: int, env_steps: int, batch: Batch) -> Iterator[None]:
        """Wrap the train step of this update (counted from 1) on this batch."""
        if self._start is None:
            self._start = time.monotonic()
        self._keep(update, batch)
        # Kernel statistics need at least two samples.
        if not self._period or update % self._period or len(batch.action) < 2:
            yield
            return
        begun = time.monotonic()
        before = self._attempt(lambda: look_before(self._train_step, batch, update))
        spent = time.monotonic() - begun
        yield
        if before is not None:
            self._attempt(lambda: self._diagnose(update, env_steps, before, spent))

    def _keep(self, update: int, batch: Batch) -> None:
        """Keep the batch's observations if the next diagnosis needs them beside its own batch."""
        # Copies cost memory: keep only batches that the next diagnosis reaches back to.
        to_come = -update % self._period if self._period else ROWS
        if to_come * len(batch.action) < ROWS:
            self._recent.append(batch.observation.copy())

    def _take_recent(self) -> NDArray[np.uint8]:
        """Return and clear the kept observations (N, K, H, W), newest first, N at most ROWS."""
        newest_first = np.concatenate([*reversed(self._recent)])[:ROWS]
        self._recent.clear()
        return newest_first

    def _diagnose(self, update: int, env_steps: int, before: Before, spent: float) -> None:
        begun = time.monotonic()
        diagnosis = diagnose(self._train_step, before)
        with diagnosis.timed("spread"):
            diagnosis.metrics |= spread_of(self._train_step, self._take_recent())
        counts = {"update": np.array(update), "env_steps": np.array(env_steps)}
        self._save(update, diagnosis.arrays | counts)
        now = time.monotonic()
        seconds = spent + now - begun
        first, self._seconds = not self._seconds, self._seconds + seconds
        metrics = diagnosis.metrics | {
            "update": float(update),
            "env_steps": float(env_steps),
            "seconds": seconds,
            "time_share": self._seconds / (now - (self._start or begun)),
        }
        self._write({f"diagnostics/{name}": value for name, value in metrics.items()})
        if first:
            logger.info(
                "diagnostics: %.2f s every %d updates, %.1f %% of the time so far"
                " (--learner.diagnostics-period, 0 turns them off)",
                seconds,
                self._period,
                100 * metrics["time_share"],
            )

    def _save(self, update: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the file, or log why not: the metrics still count, and the next file may find room."""
        try:
            save_arrays(self._folder, update, arrays)
        except OSError as error:
            logger.warning("the arrays of the diagnosis of update %d cannot be written: %s", update, error)

    def _attempt(self, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except (RuntimeError, OSError) as error:
            # Out of memory, or no singular values because numbers are not finite.
            self._period = 0
            logger.warning("diagnostics are off from now on: %s", error)
            return None
