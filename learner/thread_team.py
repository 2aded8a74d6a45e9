"""Data parallelism over the cores of one machine: every thread computes its own share of the batch."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
# Fewer rows a thread than this, and reading the weights costs more than the arithmetic.
MIN_ROWS = 8


class ThreadTeam:
    """`size` threads, each running whole operators by itself; a team of one works in the caller's thread.

    The other way to use the cores, threads inside of every operator, meets at a barrier several hundred times
    an update. When anything else wants a core, an actor for instance, each barrier waits for the thread that
    lost its core: on two busy cores an update then took ten times as long as on a single thread. A team meets
    twice an update, and what the faster ones have to spare goes into the next update.
    """

    def __init__(self, size: int, threads_each: int = 1) -> None:
        self.size = size
        self._pool: ThreadPoolExecutor | None = None
        if size > 1:
            self._pool = ThreadPoolExecutor(
                size, "team", initializer=torch.set_num_threads, initargs=(threads_each,)
            )

    @classmethod
    def for_batch(cls, num_threads: int, batch_size: int) -> "ThreadTeam":
        """A team for batches of `batch_size`; what it leaves of `num_threads` goes into its operators."""
        size = max(1, min(num_threads, batch_size // MIN_ROWS))
        return cls(size, num_threads // size)

    def run(
        self,
        first: Callable[[int], None],
        between: Callable[[], None],
        second: Callable[[int], T],
        meanwhile: Callable[[], Iterable[Callable[[], None]]] = lambda: (),
    ) -> list[T]:
        """first(i) of all members at once, then between() by one of them, then second(i) of all at once.

        Returns what `second` returned. `meanwhile` runs in the caller's thread while the team works (in a
        team of one before `between`). What it returns are spare tasks: members that are through with `first`
        take them, unless somebody waits for them already. They may be left undone, and a team of one takes
        none. Raises the first error after all have ended.
        """
        if self._pool is None:
            first(0)
            meanwhile()
            between()
            return [second(0)]
        barrier = threading.Barrier(self.size, between)
        spare: deque[Callable[[], None]] = deque()

        def work(member: int) -> T:
            try:
                first(member)
                while barrier.n_waiting == 0 and (task := _taken(spare)) is not None:
                    task()
                barrier.wait()
            except BaseException:
                barrier.abort()
                raise
            return second(member)

        futures = [self._pool.submit(work, member) for member in range(self.size)]
        try:
            spare.extend(meanwhile())
        finally:
            errors = [future.exception() for future in futures]
        # A member that fails breaks the barrier for those that wait there: theirs are not the cause.
        errors.sort(key=lambda error: isinstance(error, threading.BrokenBarrierError))
        for error in errors:
            if error is not None:
                raise error
        return [future.result() for future in futures]


def _taken(tasks: "deque[Callable[[], None]]") -> Callable[[], None] | None:
    """The first of them, if there is one; several threads take from it."""
    try:
        return tasks.popleft()
    except IndexError:
        return None
