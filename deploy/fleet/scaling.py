"""Decides which actor slots run, and when a dead role may restart. Does not use Ray."""

from collections.abc import Collection

from apexpert.backoff import Backoff

BACKOFF_FIRST, BACKOFF_LAST = 0.5, 30.0
STEADY_SECONDS = 60.0


def surplus(running: Collection[int], target: int) -> list[int]:
    """Return the slots to be drained: those at or above `target`."""
    return sorted(slot for slot in running if slot >= target)


def missing(running: Collection[int], target: int) -> list[int]:
    """Return the slots below `target` that do not run."""
    return [slot for slot in range(target) if slot not in running]


class Restarts:
    """When a role may restart: after 0.5, 1, 2, ... 30 s; a role that held for a minute starts afresh."""

    def __init__(self) -> None:
        self.failures = 0
        """Number of failures in a row."""
        self.not_before = 0.0
        """Earliest time of the next start, on the caller's monotonic clock."""
        self._delays = Backoff(BACKOFF_FIRST, BACKOFF_LAST)
        self.started_at = 0.0
        """Time of the last start."""

    def started(self, now: float) -> None:
        """Record that the role was started."""
        self.started_at = now

    def failed(self, now: float) -> None:
        """Record that the role has died."""
        # A role that dies once an hour is not one that cannot start.
        if now - self.started_at > STEADY_SECONDS:
            self.failures = 0
            self._delays.reset()
        self.failures += 1
        self.not_before = now + self._delays.next()

    def may_start(self, now: float) -> bool:
        """Whether the wait is over."""
        return now >= self.not_before
