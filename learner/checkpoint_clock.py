"""When the next checkpoint is due: by updates, by time, or because somebody asks for it."""

import threading
import time

from learner.config import LearnerConfig


class CheckpointClock:
    """Belongs to the learner's loop, but for `ask`."""

    def __init__(self, config: LearnerConfig) -> None:
        self._period, self._seconds = config.checkpoint_period, config.checkpoint_seconds
        self._asked = threading.Event()
        self._taken_at, self._updates = time.monotonic(), 0

    def ask(self) -> None:
        """Make a checkpoint due now; any thread may call this."""
        self._asked.set()

    def is_due(self, updates: int) -> bool:
        """Whether to take one after so many updates.

        At most one an update by period or time, so that a learner that waits for data takes no two alike.
        """
        if self._asked.is_set():
            return True
        overdue = 0.0 < self._seconds <= time.monotonic() - self._taken_at
        return updates > self._updates and (overdue or updates % self._period == 0)

    def restart(self, updates: int) -> None:
        """Count from now, after this many updates: a run begins, or a checkpoint was taken."""
        self._asked.clear()
        self._taken_at, self._updates = time.monotonic(), updates
