"""Keeps inserts and samples in step, by the algebra of Reverb's rate limiter (Cassirer et al., 2021).

`Limiter` says what may be sampled and how much may be inserted; `Allowance` shares the inserts out among the
shards, where writers wait for them with tickets.
"""

import logging
import math
from collections import deque
from collections.abc import Iterable, Sequence

from replay.errors import ShardFull
from replay.log_reader import LogReader
from replay.records import Ticket, TicketBook
from replay.shard import Shard
from replay.types import SegmentIdentity

log = logging.getLogger(__name__)


class Limiter:
    """How far samples and inserts (both in items, cumulative) may be apart; pure arithmetic.

    `samples_per_insert` is batch_size / update_period; `error_buffer` is in samples. Raises ValueError when
    the buffer is so small that neither side might move.
    """

    def __init__(
        self,
        *,
        min_size: int,
        samples_per_insert: float,
        batch_size: int,
        error_buffer: float,
        total_env_steps: int | None = None,
    ) -> None:
        least = (batch_size + samples_per_insert) / 2
        if error_buffer < least:
            raise ValueError(f"--replay.error-buffer {error_buffer:g} must be at least {least:g}")
        self._min_size, self._batch_size = min_size, batch_size
        self._samples_per_insert, self._error_buffer = samples_per_insert, error_buffer
        self._total = total_env_steps
        self._middle = min_size * samples_per_insert

    def can_sample(self, inserts: int, samples: int) -> bool:
        """Whether a batch may be drawn now."""
        ahead = inserts * self._samples_per_insert - samples
        return inserts >= self._min_size and ahead - self._batch_size >= self._middle - self._error_buffer

    def max_inserts(self, samples: int) -> int:
        """Items that may have been inserted in all, after so many samples; free below `min_size`."""
        most = math.floor((samples + self._middle + self._error_buffer) / self._samples_per_insert)
        return most if self._total is None else min(most, self._total)

    @property
    def state(self) -> dict[str, float | int | None]:
        """The settings, JSON-able: there is no other state."""
        return {
            "min_size": self._min_size,
            "samples_per_insert": self._samples_per_insert,
            "batch_size": self._batch_size,
            "error_buffer": self._error_buffer,
            "total_env_steps": self._total,
        }


class Allowance:
    """The owner's hand on the shards' tickets.

    `reader` tells what is committed but not counted as inserted by the caller; without it, a backlog in the
    logs is granted a second time.
    """

    def __init__(self, shards: Sequence[Shard], limiter: Limiter, reader: LogReader | None = None) -> None:
        self._shards, self._limiter, self._reader = list(shards), limiter, reader
        self._dead: set[tuple[int, int]] = set()
        self._largest = 0
        self._turn = 0

    def refresh(self, inserted: int, samples: int, dead: Iterable[tuple[int, int]] = ()) -> None:
        """Set what every shard allows, from what was inserted (indexed) and sampled so far.

        `dead` incarnations (actor, incarnation) lose their tickets, now and in later calls. Raises
        ShardUnavailable.
        """
        self._dead.update(dead)
        cursors = self._reader.cursors if self._reader else [None] * len(self._shards)
        books = [shard.tickets(cursor) for shard, cursor in zip(self._shards, cursors, strict=True)]
        stale = stale_tickets(books, self._dead)
        books = [_without(book, names) for book, names in zip(books, stale, strict=True)]
        self._largest = max([self._largest, *(ticket.items for book in books for ticket in book.outstanding)])
        budget = self._limiter.max_inserts(samples) - inserted
        ends = plan_allowance(books, budget, largest=self._largest, first=self._turn)
        self._turn += 1
        for shard, book, names, end in zip(self._shards, books, stale, ends, strict=True):
            shard.drop_outstanding(names)
            if end != book.allowed:
                self._set(shard, end)

    def _set(self, shard: Shard, end: int) -> None:
        try:
            shard.set_allowed(end)
        except ShardFull as error:
            # It would refuse the segments as well; the owner evicts and comes back here.
            log.warning("%s", error)


def stale_tickets(books: Sequence[TicketBook], dead: set[tuple[int, int]]) -> list[set[SegmentIdentity]]:
    """Per shard, the tickets that nobody will use: of dead incarnations, or left by a writer that went on.

    A writer has one segment in hand, its segments' numbers rise, and its attempts at one are counted: of each
    incarnation only the newest ticket is alive. Others were left on shards that could not be reached; counted
    as in flight, they could keep their own writer waiting for ever.
    """
    newest: dict[tuple[int, int], tuple[int, int]] = {}
    for ticket in (ticket for book in books for ticket in book.outstanding):
        writer, order = ticket.identity[:2], (ticket.identity.seq, ticket.attempt)
        newest[writer] = max(order, newest.get(writer, order))

    def is_stale(ticket: Ticket) -> bool:
        writer = ticket.identity[:2]
        return writer in dead or (ticket.identity.seq, ticket.attempt) < newest[writer]

    return [{t.identity for t in book.outstanding if is_stale(t)} for book in books]


def plan_allowance(books: Sequence[TicketBook], budget: int, *, largest: int, first: int = 0) -> list[int]:
    """The new `allowed` of each shard: at most `budget` further items come in, but for one segment a writer.

    What counts against the budget: pending items, tickets that are covered already, and what was allowed to
    writers to come. What remains serves the waiting tickets, in turns between the shards from shard `first`
    on; then it is split evenly for writers to come, less what the last of them may overdraw (a segment of up
    to `largest` items commits when any item of it is allowed). When tickets must wait, what nobody has
    reserved is taken back, for the next plan to give: a writer may be using it at this moment.
    """
    lasts = [max([book.reserved, *(t.end or 0 for t in book.outstanding)]) for book in books]
    unused = [max(0, book.allowed - last) for book, last in zip(books, lasts, strict=True)]
    overdraw = max(0, largest - 1)
    covered, waiting = _covered_and_waiting(books, first)
    spare = budget - sum(book.pending for book in books) - covered
    spare -= sum(items + overdraw for items in unused if items)
    ends, overspent = [book.allowed for book in books], spare < 0
    while waiting and spare > 0:
        index, end, ticket = waiting.popleft()
        ends[index] = max(ends[index], end)
        spare -= ticket.items
    if waiting or overspent:
        return [min(end, last) for end, last in zip(ends, lasts, strict=True)]
    for index in range(len(books)) if largest else ():
        share = (max(0, spare) + (index - first) % len(books)) // len(books)
        extra = share if unused[index] else share - overdraw
        ends[index] = max(ends[index], lasts[index]) + extra if extra > 0 else ends[index]
    return ends


def _covered_and_waiting(
    books: Sequence[TicketBook], first: int
) -> tuple[int, deque[tuple[int, int, Ticket]]]:
    """Items of the tickets that may commit, and (shard, end, ticket) of the others in order of service."""
    covered = 0
    waiting: list[tuple[int, int, int, int, Ticket]] = []
    for index, book in enumerate(books):
        turn = (index - first) % len(books)
        for place, (end, ticket) in enumerate(sorted((_end(t, book), t) for t in book.outstanding)):
            if end - ticket.items < book.allowed:
                covered += ticket.items
            else:
                waiting.append((place, turn, index, end, ticket))
    return covered, deque((index, end, ticket) for _, _, index, end, ticket in sorted(waiting))


def _end(ticket: Ticket, book: TicketBook) -> int:
    # Not noted yet: it was taken a moment ago, so it is the last one.
    return ticket.end if ticket.end is not None else book.reserved


def _without(book: TicketBook, stale: set[SegmentIdentity]) -> TicketBook:
    return book._replace(outstanding=tuple(t for t in book.outstanding if t.identity not in stale))
