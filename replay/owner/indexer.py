"""Keep the item table in step with the shards' logs: index new segments, and evict the oldest for them."""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

from replay.errors import ShardUnavailable
from replay.items.counters import Counters
from replay.items.priorities import Priorities
from replay.items.table import ItemTable
from replay.log.cursor import UNKNOWN_PENDING, Poll
from replay.log.reader import LogReader, ReceivedSegment
from replay.owner.eviction import Eviction, PendingDeletions
from replay.owner.recovery import Recovery
from replay.shards.pipeline import ShardPipeline
from replay.shards.records import TicketBook
from replay.shards.shard import Shard

Check = Callable[[Mapping[int, Poll]], None]
"""Called with every shard's answer before anything of it is taken; raises to take nothing."""


@dataclass(frozen=True)
class Turn:
    """Result of one turn over the shards."""

    added: int
    """Number of items added."""
    books: dict[int, TicketBook]
    """Tickets of each shard that answered; what is in its log and was not taken counts as pending."""


class Indexer:
    """Indexes what the logs name. With `owns`, what leaves the table is also deleted from the shards."""

    def __init__(
        self, reader: LogReader, table: ItemTable, priorities: Priorities, counters: Counters, *, owns: bool
    ) -> None:
        self._reader, self._table, self._owns = reader, table, owns
        self._priorities, self._counters = priorities, counters
        self.pending_deletions = PendingDeletions(reader.cursors, deletes=owns)
        self.eviction = Eviction(table, counters, self.pending_deletions)
        self.recovery = Recovery(reader, table, counters, self.pending_deletions)

    def turn(self, limit: int, check: Check = lambda polls: None) -> Turn:
        """Index up to about `limit` new segments, evict for them, and send the shards their deletions.

        If nothing is new, this is one round trip to all shards at once.
        """
        polls = self._poll(limit, memory=self.eviction.due(self.recovery.live) if self._owns else ())
        # Before anything is taken, so that a stale owner ends before it evicts.
        check(polls)
        added = sum(self._insert(received) for received in self._reader.take(polls))
        self.recovery.resolve(polls)
        if self._owns:
            # Before the flush, which then sends what this evicts as well.
            self.eviction.relieve({shard_index: poll.memory for shard_index, poll in polls.items()})
            self.pending_deletions.flush(polls)
        return Turn(added, {index: self._book(index, poll) for index, poll in polls.items()})

    def books(self, limit: int, check: Check) -> dict[int, TicketBook]:
        """Return the shards' tickets without indexing anything. Deletions are sent as in a turn."""
        polls = self._poll(limit)
        check(polls)
        books = {}
        for shard_index, poll in polls.items():
            new = [entry for entry in poll.entries if not self._reader.is_taken(entry)]
            pending = sum(entry.num_items for entry in new) if poll.as_left else UNKNOWN_PENDING
            books[shard_index] = poll.book._replace(pending=poll.book.pending + pending)
        self.pending_deletions.flush(books)
        return books

    @property
    def positions(self) -> list[str]:
        """Id of the last log entry read, per shard."""
        return self._reader.positions

    def pipelines(self, shards: Container[int] | None = None) -> dict[int, ShardPipeline]:
        """Return the pipelines of these shards, or of all that answer."""
        chosen = self.recovery.live if shards is None else shards
        return {i: cursor.pipeline for i, cursor in enumerate(self._reader.cursors) if i in chosen}

    def add_shard(self, shard: Shard) -> None:
        """Follow one more shard from now on."""
        self._reader.add_shard(shard)

    def settle(self) -> None:
        """Wait until the shards have answered everything that they were sent."""
        for shard_index, pipeline in self.pipelines().items():
            try:
                pipeline.settle()
            except ShardUnavailable as error:
                self.recovery.park(shard_index, error)

    def close(self) -> None:
        """Close the connections and stop waiting for parked shards."""
        self.recovery.availability.close()
        for cursor in self._reader.cursors:
            cursor.pipeline.close()

    @property
    def state(self) -> dict[str, Any]:
        """JSON-able: where the logs were read to, and what is still to be deleted."""
        # `departures` is what older checkpoints call the deletions.
        return {"reader": self._reader.state, "departures": self.pending_deletions.state}

    def restore_positions(self, state: Mapping[str, Any]) -> None:
        """Resume from where `state` was taken; deletions follow with `restore_deletions`, after the table."""
        self._reader.restore(state["reader"])

    def restore_deletions(self, state: Mapping[str, Any]) -> None:
        """Restore the deletions of `state`, see `restore_positions`."""
        self.pending_deletions.restore(state["departures"])

    def _poll(self, limit: int, *, memory: Container[int] = ()) -> dict[int, Poll]:
        """Poll every shard that answers, and poll those again whose logs must be read from the start."""
        self.recovery.note_returned()
        polls = self._reader.poll(limit, self.recovery.live, memory=memory)
        changed = [shard_index for shard_index, poll in polls.items() if not poll.as_left]
        # A poll of a log that has changed was read after an id of the old one: it may lack what comes before.
        for shard_index in changed:
            self.recovery.rewind(shard_index)
            del polls[shard_index]
        polls |= self._reader.poll(limit, changed, memory=memory)
        self.recovery.park_failed()
        return polls

    def _book(self, shard_index: int, poll: Poll) -> TicketBook:
        """Return the tickets that a poll found; what is in the log and was not taken counts as pending."""
        at_end = poll.as_left and self.recovery.is_at_the_end(shard_index, poll)
        return poll.book if at_end else poll.book._replace(pending=UNKNOWN_PENDING)

    def _insert(self, received: ReceivedSegment) -> int:
        """Index one segment; return its number of items."""
        segment = received.segment
        size = segment.num_items, segment.num_steps, received.num_bytes
        # Otherwise `make_room` would evict everything and still find no room.
        if not self._table.fits_ever(*size):
            self._refuse(received)
            return 0
        self.eviction.make_room(*size)
        self._table.insert(
            segment,
            received.header,
            self._priorities.first_masses(segment),
            shard_index=received.shard_index,
            log_id=received.log_id,
            num_bytes=received.num_bytes,
        )
        self.eviction.note_bytes(received.shard_index, received.num_bytes)
        # A segment that was lost and turned up again was counted when it was first inserted.
        if not received.was_lost:
            self._counters.inserted += segment.num_items
        return segment.num_items

    def _refuse(self, received: ReceivedSegment) -> None:
        """Count a segment that can never fit."""
        segment = received.segment
        self._counters.rejected += 1
        # Its items were never counted as inserted, so `was_taken` is False.
        self._reader.ledger.lose(segment.identity, segment.num_items, was_taken=False)
        self._reader.cursors[received.shard_index].set_aside(received.log_id, segment.identity)
