"""Where an actor's weights come from, and how old they are when they act."""

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np

from models.arrays import Weights


class WeightsSource(Protocol):
    """Where an actor gets its weights."""

    def ask(self) -> None:
        """Request the newest weights without waiting for them."""

    def take(self, wait: bool = False) -> Weights | None:
        """Return the requested weights if they have arrived and are newer than the last returned, else None.

        With `wait`, request any newer weights and possibly block for a short while.
        """

    def renew(self) -> Weights | None:
        """Request the weights that are the newest now, and return them if they come within a moment.

        Weights requested before may be returned in their place when the answer takes longer.
        """


class WeightsAge:
    """The learner's updates since the weights of each vector step, at the time of that step.

    Only publications tell an actor how far the learner is. So a step's age is known once weights have
    come that were published after it: between two publications the learner's updates are taken to be
    even in time.
    `clock` returns seconds since the epoch.
    """

    STEPS = 1_000
    """Vector steps that the mean is over; so many may wait for the next publication."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._newest: Weights | None = None
        # (time, updates behind the weights that acted)
        self._steps: deque[tuple[float, int]] = deque(maxlen=self.STEPS)
        self._ages: deque[float] = deque(maxlen=self.STEPS)
        self._mean: float | None = None

    def acted(self) -> None:
        """Note a vector step with the newest weights that arrived."""
        if self._newest is not None:
            self._steps.append((self._clock(), self._newest.updates))

    def arrived(self, weights: Weights) -> None:
        """Note weights that act from now on; they tell the ages of the steps before their publication."""
        before, self._newest = self._newest, weights
        if before is None or weights.updates < before.updates or not before.published_at:
            # The first, those of a learner that went back to a checkpoint, or of no store.
            self._steps.clear()
            return
        span = (before.published_at, weights.published_at), (before.updates, weights.updates)
        known = []
        while self._steps and self._steps[0][0] <= weights.published_at:
            known.append(self._steps.popleft())
        if known:
            # All at once: a step at a time takes milliseconds, in which nobody acts.
            acted_at, updates = np.array(known).T
            self._ages.extend(np.maximum(0.0, np.interp(acted_at, *span) - updates).tolist())
        if self._ages:
            self._mean = float(np.mean(self._ages))

    def metrics(self) -> dict[str, float]:
        """Return the mean age over the last vector steps, once known; may be called from any thread."""
        mean = self._mean
        return {} if mean is None else {"actors/weights_age_updates": mean}
