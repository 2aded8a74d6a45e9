"""How many actors there are cores for."""

import logging
import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from deploy.fleet.actor_fleet import START_SECONDS, ActorFleet
from deploy.fleet.ray.nodes import free_cores

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Background(Generic[T]):
    """Asks Ray in a thread: while its head is away a question takes minutes, and a run goes on without it."""

    def __init__(self, question: Callable[[], T]) -> None:
        self._question = question
        self._thread: threading.Thread | None = None
        self._answer: T | None = None

    def answer(self) -> T | None:
        """Return the answer to the question asked by an earlier call; ask, and return None, without one."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._ask, name="ask Ray", daemon=True)
            self._thread.start()
        if self._thread.is_alive():
            return None
        self._thread, answer, self._answer = None, self._answer, None
        return answer

    def _ask(self) -> None:
        try:
            self._answer = self._question()
        except Exception:  # Of any kind, and never the end of a run: it is asked again.
            logger.exception("Ray does not answer")


class Room:
    """Cores for actors, on a Ray of the run's own or on a user's."""

    def __init__(self, actors: ActorFleet, node_id: str | None, *, own: bool) -> None:
        """`node_id`: the only node that actors may run on, or None for any. `own`: whose Ray it is."""
        self._actors, self._own = actors, own
        self._ask_now: Callable[[], int] = lambda: free_cores(node_id)
        self._free = Background(self._ask_now)

    def at_start(self) -> int:
        """Return how many actors there are cores for before any has started; asks Ray, and waits for it."""
        return self._of_the_machine() if self._own else max(1, self._ask_now())

    def look(self) -> tuple[int, int] | None:
        """Return the fewest and the most actors that there are cores for; None until Ray has answered.

        They differ while an actor was started and has not answered: it may or may not have its core.
        """
        if self._own:
            cores = self._of_the_machine()
            return cores, cores
        free = self._free.answer()
        if free is None:
            return None
        there = len(self._actors.started)
        surely = max(1, there + free - self._actors.unplaced())
        # An actor that has not answered for longer than a start takes has no core.
        return surely, max(surely, there - self._actors.unplaced(START_SECONDS))

    def _of_the_machine(self) -> int:
        # The logical CPUs of a Ray of our own are no cores. One core is the learner's; a cpuset leaves fewer.
        return max(1, len(os.sched_getaffinity(0)) - 1)
