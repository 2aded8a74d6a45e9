"""Publication of weights: at once where they are at hand, else by a thread that waits for a GPU's copy."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.arrays import Weights

LEAST_SECONDS = 0.05
"""Shortest time between two publications of a period: actors take in new weights at their next vector step,
and each costs the learner's node several milliseconds."""


@dataclass(frozen=True)
class Copy:
    """Weights on their way from the device."""

    version: int
    env_steps: int
    updates: int
    fetch: Callable[[], NDArray[np.float32]]
    """Waits for the parameters and returns them (P,), as `models.arrays.flatten` orders them."""

    def weights(self) -> Weights:
        """Return the weights, once they are there."""
        return Weights(self.version, self.fetch(), self.env_steps, self.updates)


class Publisher:
    """Hands weights on; in the background only the newest of those that wait, for older ones serve nobody."""

    def __init__(self, publish: Callable[[Weights], None], *, in_background: bool) -> None:
        self._publish, self._in_background = publish, in_background
        self._changed = threading.Condition()
        self._waiting: Copy | None = None
        self._at_work = self._closed = False
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._last = -LEAST_SECONDS

    @property
    def is_soon(self) -> bool:
        """Whether the last publication was so short ago that the next one can wait for another period.

        Only of updates as fast as a GPU's.
        """
        return self._in_background and time.monotonic() - self._last < LEAST_SECONDS

    def publish(self, copy: Copy) -> None:
        """Publish the weights, or have it done; raise what an earlier publication has raised meanwhile."""
        self._last = time.monotonic()
        if not self._in_background:
            self._publish(copy.weights())
            return
        with self._changed:
            self._raise()
            self._waiting = copy
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="publications", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Wait until the newest weights are published, and end the thread; raise what it has raised."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        with self._changed:
            self._closed = False
            self._raise()

    def _work(self) -> None:
        while (copy := self._next()) is not None:
            try:
                self._publish(copy.weights())
            except BaseException as error:
                with self._changed:
                    self._error = error

    def _next(self) -> Copy | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting is not None)
            copy, self._waiting = self._waiting, None
            return copy

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
