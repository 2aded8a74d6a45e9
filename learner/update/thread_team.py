"""Data parallelism over the cores of one machine: every thread computes its own share of the batch."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")
# Fewer rows a thread than this, and reading the weights costs more than the arithmetic.
MIN_ROWS = 8


class ThreadTeam:
    """`size` threads, the caller's and others, each running whole operators by itself.

    The other way to use the cores, threads inside of every operator, meets at a barrier several hundred times
    an update. When anything else wants a core, an actor for instance, each barrier waits for the thread that
    lost its core: on two busy cores an update then took ten times as long as on a single thread. A team meets
    twice an update, and what the faster ones have to spare goes into the next update.
    """

    def __init__(self, size: int, threads_each: int = 1) -> None:
        self.size = size
        self._threads_each = threads_each
        self._pool: ThreadPoolExecutor | None = None
        if size > 1:
            self._pool = ThreadPoolExecutor(size - 1, "team", initializer=_join, initargs=(threads_each,))

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

        Returns what `second` returned. The caller is member 0, and runs `meanwhile` before its `first`, while
        the others are at theirs (in a team of one after it). What `meanwhile` returns are spare tasks:
        members that are through with `first` take them, unless somebody waits for them already. They may be
        left undone, and a team of one takes none. Raises the first error after all have ended.
        """
        with _flushing_denormals():
            return self._run(first, between, second, meanwhile)

    def _run(
        self,
        first: Callable[[int], None],
        between: Callable[[], None],
        second: Callable[[int], T],
        meanwhile: Callable[[], Iterable[Callable[[], None]]],
    ) -> list[T]:
        if self._pool is None:
            first(0)
            meanwhile()
            between()
            return [second(0)]
        barrier = threading.Barrier(self.size, between)
        spare: deque[Callable[[], None]] = deque()

        def work(member: int) -> T:
            try:
                if member == 0:
                    spare.extend(meanwhile())
                first(member)
                while barrier.n_waiting == 0 and (task := _taken(spare)) is not None:
                    task()
                barrier.wait()
            except BaseException:
                barrier.abort()
                raise
            return second(member)

        with _threads(self._threads_each):
            others = [self._pool.submit(work, member) for member in range(1, self.size)]
            futures = [_done(work, 0), *others]
            errors = [error for future in futures if (error := future.exception()) is not None]
        # A member that fails breaks the barrier for those that wait there: theirs are not the cause.
        errors.sort(key=lambda error: isinstance(error, threading.BrokenBarrierError))
        if errors:
            raise errors[0]
        return [future.result() for future in futures]


@contextmanager
def _flushing_denormals() -> Iterator[None]:
    """This thread takes numbers below 1.2e-38, float32's smallest normal one, for 0.

    Adam's first moment of a weight that gets no gradient any more (a dormant unit's) shrinks to such a number
    within 800 updates and never to 0. A third of the moments were of that kind in a run on Boxing, and
    Adam's step took 46 ms in place of 9.
    """
    before = bool(np.float32(1e-40) * np.float32(1.0) == 0.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _join(threads: int) -> None:
    """A new member's first act."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """That many threads in the operators of this thread.

    Some libraries below take the number for all threads: it must stand before the others begin, or their
    results differ in the last bits.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _done(work: Callable[[int], T], member: int) -> "Future[T]":
    """What a member makes of its work, in this thread."""
    future: Future[T] = Future()
    try:
        future.set_result(work(member))
    except BaseException as error:
        future.set_exception(error)
    return future


def _taken(tasks: "deque[Callable[[], None]]") -> Callable[[], None] | None:
    """The first of them, if there is one; several threads take from it."""
    try:
        return tasks.popleft()
    except IndexError:
        return None
