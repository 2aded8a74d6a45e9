"""Keep inserts and samples in step, by the algebra of Reverb's rate limiter (Cassirer et al., 2021).

`Limiter` computes what may be sampled and how much may be inserted. `Allowance` divides the inserts
among the shards, where writers wait for them with tickets.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence, Set
from typing import Any

from redis import RedisError

from replay.config import ReplayConfig
from replay.log.cursor import LogCursor
from replay.shards.pipeline import pack
from replay.shards.records import Ticket, TicketBook
from replay.types import SegmentIdentity


class Limiter:
    """How far samples and inserts (both in items, cumulative) may be apart; pure arithmetic.

    `samples_per_insert` is batch_size / update_period; `error_buffer` is in samples. Raises
    ValueError if the buffer is so small that neither side might be able to move.
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
        # A batch and an insert must both fit into the range, which is twice the buffer wide.
        least = (batch_size + samples_per_insert) / 2
        if error_buffer < least:
            raise ValueError(f"--replay.error-buffer {error_buffer:g} must be at least {least:g}")
        self._min_size, self._batch_size = min_size, batch_size
        self._samples_per_insert, self._error_buffer = samples_per_insert, error_buffer
        self._total = total_env_steps
        self._middle = min_size * samples_per_insert
        self._first = min_size
        self._unearned = 0

    def refill(self, items: int, inserts: int, samples: int, unearned: int) -> int:
        """Have `items` more inserted before the next sample, which earn none; return the new `unearned`.

        For a replay whose items are gone: without this, the first few new ones would be drawn again and
        again. `unearned`: what earlier refills have taken, 0 for `items` and none of them.
        """
        if items:
            filled = inserts + items
            balanced = filled - self._min_size - math.floor(samples / self._samples_per_insert)
            unearned = max(unearned, balanced)
            self._first = filled if self._total is None else min(filled, self._total)
        self._unearned = unearned
        return unearned

    def refill_left(self, inserts: int) -> int:
        """Return the items to be inserted before a `refill` is done."""
        return max(0, self._first - inserts) if self._unearned else 0

    def can_sample(self, inserts: int, samples: int) -> bool:
        """Whether a batch may be drawn now."""
        ahead = (inserts - self._unearned) * self._samples_per_insert - samples
        return inserts >= self._first and ahead - self._batch_size >= self._middle - self._error_buffer

    def max_inserts(self, samples: int) -> int:
        """Return the items that may have been inserted in all after `samples`; free below `min_size`."""
        most = math.floor((samples + self._middle + self._error_buffer) / self._samples_per_insert)
        most += self._unearned
        return most if self._total is None else min(most, self._total)

    def budget(self, inserts: int, samples: int, *, empty: bool) -> int:
        """Return the items that may still be inserted; negative if more were inserted than should have been.

        With `empty`, no item is left to draw: all were lost, or evicted for lack of memory. No
        sample could then ever earn an insert, so one segment may come in whatever the ratio.
        """
        budget = self.max_inserts(samples) - inserts
        ended = self._total is not None and inserts >= self._total
        return max(budget, 1) if empty and not ended else budget


def fitting_error_buffer(config: ReplayConfig, batch_size: int, samples_per_insert: float) -> float:
    """Samples by which the limiter may leave the exact ratio: room for two segments that come at once."""
    smallest = batch_size + 2 * samples_per_insert * config.segment_steps
    return max(smallest, 0.1 * config.min_size * samples_per_insert)


class Allowance:
    """Sets how much each shard allows, from the tickets in its book."""

    def __init__(self, cursors: Sequence[LogCursor], limiter: Limiter) -> None:
        self._cursors, self._limiter = cursors, limiter
        self._largest = 0
        self._turn = 0
        self._planned: object = None

    def refresh(
        self,
        books: Mapping[int, TicketBook],
        inserted: int,
        samples: int,
        dead: Set[tuple[int, int]] = frozenset(),
        *,
        empty: bool = False,
    ) -> None:
        """Set what these shards allow, from their books and from the items inserted (indexed) and sampled.

        Items in a log after its tickets were read must be counted as inserted, or as pending in its
        book. `dead` incarnations (actor, incarnation) lose their tickets; `empty` as for
        `Limiter.budget`. Nothing is awaited: what did not get through shows in the next books.
        """
        # The sampler's `dead` only grows, so its size shows every change.
        seen = (books, inserted, samples, len(dead), empty)
        # Most turns change nothing, so the same plan is not made again.
        if seen == self._planned:
            return
        stale = dict(zip(books, stale_tickets(list(books.values()), dead), strict=True))
        kept = [_without(book, stale[shard_index]) for shard_index, book in books.items()]
        self._largest = max([self._largest, *(ticket.items for book in kept for ticket in book.outstanding)])
        budget = self._limiter.budget(inserted, samples, empty=empty)
        ends = plan_allowance(kept, budget, largest=self._largest, first=self._turn)
        self._turn += 1
        # Set first: a send that fails at once sets it back to None.
        self._planned = seen
        for (shard_index, book), end in zip(books.items(), ends, strict=True):
            self._apply(self._cursors[shard_index], book, end, stale[shard_index])

    def _apply(self, cursor: LogCursor, book: TicketBook, end: int, stale: set[SegmentIdentity]) -> None:
        shard = cursor.shard
        commands: list[tuple[str | int, ...]] = []
        if stale:
            commands.append(("HDEL", shard.outstanding_key, *map(str, stale)))
        if end != book.allowed:
            commands.append(("SET", shard.allowed_key, end))
        if commands:
            cursor.pipeline.tell(pack(*commands), lambda answers: self._note(cursor, answers))

    def _note(self, cursor: LogCursor, answers: Sequence[Any] | None) -> None:
        refusals = [answer for answer in answers or () if isinstance(answer, RedisError)]
        if refusals:
            # A full server refuses segments as well; the owner makes room and plans again.
            cursor.warn(refusals[0])
        if refusals or answers is None:
            self._planned = None


def stale_tickets(books: Sequence[TicketBook], dead: Set[tuple[int, int]]) -> list[set[SegmentIdentity]]:
    """Return, per shard, tickets nobody will use: of dead incarnations, or left by a writer that moved on.

    A writer handles one segment at a time, its segments' numbers rise, its attempts at one are
    counted, and an actor's next incarnation begins when the one before has ended: only the newest
    ticket of an actor is alive. Others were left by the dead or on shards that could not be
    reached; counted as in flight, they could keep their own writer waiting forever.
    """
    newest: dict[int, tuple[int, int, int]] = {}
    for ticket in (ticket for book in books for ticket in book.outstanding):
        actor = ticket.identity.actor
        newest[actor] = max(_order(ticket), newest.get(actor, _order(ticket)))

    def is_stale(ticket: Ticket) -> bool:
        return ticket.identity[:2] in dead or _order(ticket) < newest[ticket.identity.actor]

    return [{t.identity for t in book.outstanding if is_stale(t)} for book in books]


def _order(ticket: Ticket) -> tuple[int, int, int]:
    """Return what orders the tickets of one actor, oldest first."""
    return (ticket.identity.incarnation, ticket.identity.seq, ticket.attempt)


def plan_allowance(books: Sequence[TicketBook], budget: int, *, largest: int, first: int = 0) -> list[int]:
    """Return the new `allowed` of each shard: at most `budget` more items, plus one segment per writer.

    Against the budget count pending items, tickets that are covered already, and what was allowed
    to future writers. The remainder serves the waiting tickets, alternating between the shards from
    shard `first` on. What is left then is split evenly for future writers, less what the last of
    them may overdraw (a segment of up to `largest` items commits if any item of it is allowed). If
    tickets must wait, what nobody has reserved is taken back, for the next plan to give: a writer
    may be using it at this moment.
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
        # Rounded so that the shares of all shards add up to `spare`.
        share = (max(0, spare) + (index - first) % len(books)) // len(books)
        # Where some allowance is unused already, its overdraw was subtracted above.
        extra = share if unused[index] else share - overdraw
        ends[index] = max(ends[index], lasts[index]) + extra if extra > 0 else ends[index]
    return ends


def _covered_and_waiting(
    books: Sequence[TicketBook], first: int
) -> tuple[int, deque[tuple[int, int, Ticket]]]:
    """Return the items of tickets that may commit, and (shard, end, ticket) of the rest in serving order."""
    covered = 0
    waiting: list[tuple[int, int, int, int, Ticket]] = []
    for index, book in enumerate(books):
        turn = (index - first) % len(books)
        for place, (end, ticket) in enumerate(sorted((_end(t, book), t) for t in book.outstanding)):
            if end - ticket.items < book.allowed:
                covered += ticket.items
            else:
                waiting.append((place, turn, index, end, ticket))
    # By rank within the shard and then by shard, so that the shards take turns.
    return covered, deque((index, end, ticket) for _, _, index, end, ticket in sorted(waiting))


def _end(ticket: Ticket, book: TicketBook) -> int:
    # Not noted yet: the ticket was taken a moment ago, so it is the last.
    return ticket.end if ticket.end is not None else book.reserved


def _without(book: TicketBook, stale: set[SegmentIdentity]) -> TicketBook:
    return book._replace(outstanding=tuple(t for t in book.outstanding if t.identity not in stale))
