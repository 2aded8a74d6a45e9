"""The learner's report on itself: recent speed, share of time spent waiting, latest metrics."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping


class SpeedWindow:
    """Updates, waiting time and arrivals of the last `seconds`, kept in one-second buckets."""

    def __init__(self, seconds: float = 20.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._start = clock()
        self._buckets: deque[tuple[float, int, float, int]] = deque()

    def count(self, *, updates: int = 0, waited: float = 0.0, arrived: int = 0) -> None:
        """Add updates made, seconds of a wait that ended just now, or the items of one arrival."""
        now = self._clock()
        if self._buckets and now - self._buckets[-1][0] < 1.0:
            since, u, w, a = self._buckets[-1]
            self._buckets[-1] = (since, u + updates, w + waited, max(a, arrived))
        else:
            self._buckets.append((now, updates, waited, arrived))
        while self._buckets[0][0] < now - self._seconds:
            self._buckets.popleft()

    @property
    def updates_per_s(self) -> float:
        """Updates per second over the window (over the time since the start while that is shorter)."""
        return sum(u for _, u, _, _ in self._recent()) / self._length()

    @property
    def waiting_share(self) -> float:
        """Share of the window's time spent waiting for data or allowance, in [0, 1]."""
        return min(sum(w for _, _, w, _ in self._recent()) / self._length(), 1.0)

    @property
    def largest_arrival(self) -> int:
        """Most items that arrived at once within the window."""
        return max((a for _, _, _, a in self._recent()), default=0)

    def _recent(self) -> list[tuple[float, int, float, int]]:
        horizon = self._clock() - self._seconds
        return [bucket for bucket in self._buckets if bucket[0] >= horizon]

    def _length(self) -> float:
        return max(min(self._clock() - self._start, self._seconds), 1e-9)


class MetricsBoard:
    """The latest metrics: one thread writes, any thread reads."""

    def __init__(self, period: float = 0.25, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._latest: dict[str, float] = {}
        self._period = period
        self._clock = clock
        self._due = clock()

    def due(self) -> bool:
        """Whether a period has passed since the last `write`: gathering metrics costs more than asking."""
        return self._clock() >= self._due

    def write(self, metrics: Mapping[str, float]) -> None:
        """Replace the values of these names."""
        with self._lock:
            self._latest.update(metrics)
        self._due = self._clock() + self._period

    def read(self) -> dict[str, float]:
        """Return a copy of the latest values."""
        with self._lock:
            return dict(self._latest)
