"""Data parallelism over the cores of one machine: every thread computes its own share of the batch."""

from collections.abc import Callable
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
    twice an update.
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
        function: Callable[[int], T],
        count: int | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[T]:
        """[function(0), ..., function(count - 1)], all at once; `count` is the team's size if not given.

        `meanwhile` runs in the caller's thread while the team works (after it, in a team of one). Raises what
        `meanwhile` or else the first failing call raised, after all have ended.
        """
        members = range(self.size if count is None else count)
        if self._pool is None:
            results = [function(member) for member in members]
            meanwhile()
            return results
        futures = [self._pool.submit(function, member) for member in members]
        try:
            meanwhile()
        finally:
            errors = [future.exception() for future in futures]
        for error in errors:
            if error is not None:
                raise error
        return [future.result() for future in futures]
