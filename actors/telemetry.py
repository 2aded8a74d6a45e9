"""An actor's report on itself: rates, waiting time and finished episodes."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from actors.episodes import Episode

RATE_SECONDS = 10.0
"""Rates are means over about this many seconds."""
MARK_SECONDS = 1.0


class Telemetry:
    """Written by the acting thread, read by any thread; `clock` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._episodes: list[Episode] = []
        self._env_steps = 0
        self._waited = 0.0
        self._waiting_since: float | None = None
        # (time, env steps, seconds waited), one mark a second or so, the oldest RATE_SECONDS ago.
        self._marks = deque([(clock(), 0, 0.0)])

    @property
    def env_steps(self) -> int:
        """Transitions made so far."""
        return self._env_steps

    def count(self, env_steps: int, episodes: Iterable[Episode]) -> None:
        """Add one vector step."""
        with self._lock:
            self._env_steps += env_steps
            self._episodes.extend(episodes)
            self._mark(self._clock())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting, from its beginning and not only once it ends."""
        with self._lock:
            self._waiting_since = self._clock()
        try:
            yield
        finally:
            with self._lock:
                self._waited = self._waited_until(self._clock())
                self._waiting_since = None

    def take_episodes(self) -> list[Episode]:
        """Return the episodes finished since the last call."""
        with self._lock:
            taken, self._episodes = self._episodes, []
            return taken

    def rates(self) -> dict[str, float]:
        """Return env steps per second and the share of time spent waiting for the replay or for weights."""
        with self._lock:
            now = self._clock()
            self._mark(now)
            since, env_steps, waited = self._marks[0]
            seconds = max(now - since, 1e-9)
            return {
                "speed/actor_steps_per_s": (self._env_steps - env_steps) / seconds,
                "actors/waiting_share": (self._waited_until(now) - waited) / seconds,
            }

    def _waited_until(self, now: float) -> float:
        return self._waited + (0.0 if self._waiting_since is None else now - self._waiting_since)

    def _mark(self, now: float) -> None:
        if now - self._marks[-1][0] >= MARK_SECONDS:
            self._marks.append((now, self._env_steps, self._waited_until(now)))
        # Keep one mark at least RATE_SECONDS old, so that rates cover the whole window.
        while len(self._marks) > 1 and now - self._marks[1][0] >= RATE_SECONDS:
            self._marks.popleft()
