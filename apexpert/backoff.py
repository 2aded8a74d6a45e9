"""Waits between tries that grow longer."""

import random

# A generator of its own: a seeded run must not make the waits of its processes equal.
_RANDOM = random.Random()


class Backoff:
    """Waits between tries, in seconds: `first`, then twice as long each time in a row, at most `longest`.

    With `jitter` each is shortened at random by up to a half, so that many processes that failed together do
    not all try again together.
    """

    def __init__(self, first: float, longest: float, *, jitter: bool = False) -> None:
        self._first, self._longest, self._jitter = first, longest, jitter
        self._next = first

    def next(self) -> float:
        """Return how long to wait now; the next wait in this row is longer."""
        wait, self._next = self._next, min(2 * self._next, self._longest)
        return wait * _RANDOM.uniform(0.5, 1.0) if self._jitter else wait

    def reset(self) -> None:
        """Begin again with the first wait."""
        self._next = self._first
