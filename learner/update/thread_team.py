"""Data parallelism over the cores of one machine: every thread computes its own share of the batch."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

T = TypeVar("T")
# With fewer rows per thread, reading the weights costs more than the arithmetic.
MIN_ROWS = 8
# From so many rows on, or FLOPs of their forward pass, half of a batch costs about half of its time.
MANY_ROWS = 64
MANY_FLOPS = 1e9


class Phase(NamedTuple):
    """A later phase of a team's work."""

    meeting: Callable[[], None]
    """Called once, in one member, when all members have arrived and before any goes on."""
    work: Callable[[int], Any]
    """Called in all members at once, with the member's number."""


class ThreadTeam:
    """`size` threads, including the caller's, that each run whole operators by themselves.

    The usual way to use the cores, threads inside every operator, meets at a barrier several hundred times
    per update. When anything else wants a core, such as an actor, each barrier waits for the thread that lost
    its core: on two busy cores an update then took ten times as long as on a single thread. A team meets
    twice per update, and its faster members spend their spare time on the next update before the first
    meeting.
    """

    def __init__(self, size: int, threads_each: int = 1, num_shares: int | None = None) -> None:
        self.size = size
        self.num_shares = num_shares or size
        """Parts of a batch; members without one have their time for the next update."""
        self.num_threads = size * threads_each
        """Of all members together."""
        self._threads_each = threads_each
        self._pool: ThreadPoolExecutor | None = None
        if size > 1:
            self._pool = ThreadPoolExecutor(size - 1, "team", initializer=_join, initargs=(threads_each,))

    @classmethod
    def for_batch(cls, num_threads: int, batch_size: int, flops_per_row: float) -> "ThreadTeam":
        """Return a team for batches of `batch_size`; threads to spare go into each member's operators.

        Of two members one takes a small batch of a small network alone, because each half of it would cost
        more than half of its time. The caller's meanwhile draws the next batch and evaluates its next
        observations. `flops_per_row`: FLOPs of a row's forward pass.
        """
        size = max(1, min(num_threads, batch_size // MIN_ROWS))
        small = size == 2 and batch_size < MANY_ROWS and batch_size * flops_per_row < MANY_FLOPS
        return cls(size, num_threads // size, num_shares=1 if small else size)

    def run(
        self,
        first: Callable[[int], None],
        later: Sequence[Phase],
        meanwhile: Callable[[], Iterable[Callable[[], None]]] = lambda: (),
    ) -> list[Any]:
        """Run first(i) in all members at once, then the later phases in turn: each begins with a meeting.

        Returns what the last phase's work returned, by member. The caller is member 0 and runs `meanwhile`
        before its `first`, while the others run theirs (in a team of one after it). `meanwhile` returns spare
        tasks: members that have finished `first` take them, unless another member already waits for them.
        Tasks may be left undone, and a team of one takes none. Raises the first error after all members have
        ended.
        """
        with _flushing_denormals(), _threads(self._threads_each):
            return (
                self._run_alone(first, later, meanwhile)
                if self._pool is None
                else self._run(self._pool, first, later, meanwhile)
            )

    def alone(self, work: Callable[[], T]) -> T:
        """Return `work()`, called in this thread with the operators' threads of a member."""
        with _flushing_denormals(), _threads(self._threads_each):
            return work()

    @staticmethod
    def _run_alone(
        first: Callable[[int], None],
        later: Sequence[Phase],
        meanwhile: Callable[[], Iterable[Callable[[], None]]],
    ) -> list[Any]:
        first(0)
        meanwhile()
        results: list[Any] = []
        for phase in later:
            phase.meeting()
            results = [phase.work(0)]
        return results

    def _run(
        self,
        pool: ThreadPoolExecutor,
        first: Callable[[int], None],
        later: Sequence[Phase],
        meanwhile: Callable[[], Iterable[Callable[[], None]]],
    ) -> list[Any]:
        # A barrier calls the meeting in the last member to arrive, while all others wait.
        barriers = [threading.Barrier(self.size, phase.meeting) for phase in later]
        spare: deque[Callable[[], None]] = deque()

        def work(member: int) -> Any:
            result = None
            try:
                if member == 0:
                    spare.extend(meanwhile())
                first(member)
                # Begin no spare task while a member waits: that member would wait longer.
                while barriers[0].n_waiting == 0 and (task := _taken(spare)) is not None:
                    task()
                for barrier, phase in zip(barriers, later, strict=True):
                    barrier.wait()
                    result = phase.work(member)
            except BaseException:
                # Without the abort, the others would wait for this member forever.
                for barrier in barriers:
                    barrier.abort()
                raise
            return result

        others = [pool.submit(work, member) for member in range(1, self.size)]
        futures = [_done(work, 0), *others]
        errors = [error for future in futures if (error := future.exception()) is not None]
        # A failing member breaks the barrier for the members waiting there: their errors are not the cause.
        errors.sort(key=lambda error: isinstance(error, threading.BrokenBarrierError))
        if errors:
            raise errors[0]
        return [future.result() for future in futures]


@contextmanager
def _flushing_denormals() -> Iterator[None]:
    """Treat numbers below 1.2e-38, float32's smallest normal number, as 0 in this thread.

    Adam's first moment of a weight that gets no gradient any more (of a dormant unit) shrinks to such a
    number within 800 updates and never to 0. In a run on Boxing a third of the moments were denormal, and
    Adam's step took 46 ms instead of 9.
    """
    # torch cannot be asked for the mode, so probe it: with it on, a denormal product is 0.
    before = bool(np.float32(1e-40) * np.float32(1.0) == 0.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _join(threads: int) -> None:
    """Set up the thread of a new member."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Use `number` threads in the operators of this thread.

    Some libraries below apply the number to all threads: it must be set before the others begin, or their
    results differ in the last bits.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _done(work: Callable[[int], T], member: int) -> "Future[T]":
    """Run a member's work in this thread and return its result or error as a future."""
    future: Future[T] = Future()
    try:
        future.set_result(work(member))
    except BaseException as error:
        future.set_exception(error)
    return future


def _taken(tasks: "deque[Callable[[], None]]") -> Callable[[], None] | None:
    """Return the first task, or None if there is none; several threads may call this at once."""
    try:
        return tasks.popleft()
    except IndexError:
        return None
