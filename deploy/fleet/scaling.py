"""Decides which actor slots run, and when a dead role may restart. Does not use Ray."""

from collections.abc import Collection
from dataclasses import dataclass, field

BACKOFF_FIRST, BACKOFF_LAST = 0.5, 30.0
STEADY_SECONDS = 60.0


def surplus(running: Collection[int], target: int) -> list[int]:
    """Return the slots to be drained: those at or above `target`."""
    return sorted(slot for slot in running if slot >= target)


def missing(running: Collection[int], target: int) -> list[int]:
    """Return the slots below `target` that do not run."""
    return [slot for slot in range(target) if slot not in running]


@dataclass
class Backoff:
    """When a role may restart: after 0.5, 1, 2, ... 30 s; a role that held for a minute starts afresh."""

    failures: int = 0
    """Number of failures in a row."""
    not_before: float = field(default=0.0)
    """Earliest time of the next start, on the caller's monotonic clock."""
    _started: float = field(default=0.0, repr=False)

    def started(self, now: float) -> None:
        """Record that the role was started."""
        self._started = now

    def failed(self, now: float) -> None:
        """Record that the role has died."""
        self.failures = 1 if now - self._started > STEADY_SECONDS else self.failures + 1
        delay = min(BACKOFF_FIRST * 2.0 ** (self.failures - 1), BACKOFF_LAST)
        self.not_before = now + delay

    def may_start(self, now: float) -> bool:
        """Whether the wait is over."""
        return now >= self.not_before
