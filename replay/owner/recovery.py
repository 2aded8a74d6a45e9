"""Keeps the item table right whatever happens to shards: silent, started again, without what they had."""

import logging
from typing import Any

import numpy as np

from replay.batches.observations import SegmentsGone
from replay.errors import SegmentError, ShardUnavailable
from replay.items.counters import Counters
from replay.items.table import ItemTable
from replay.log.cursor import LogCursor, Poll
from replay.log.reader import LogReader
from replay.owner.eviction import PendingDeletions, was_evicted
from replay.segments.codec import SegmentHeader
from replay.shards.availability import ShardAvailability
from replay.shards.records import LOG_START
from replay.types import Segment, SegmentIdentity

logger = logging.getLogger(__name__)

FILL_SEGMENTS = 128
"""Segments read back at once: some 4 to 10 MB of encoded and 64 MB of decoded frames."""


class Recovery:
    """Parks the segments of shards that do not answer, and decides what is left of them afterwards.

    When a shard answers again and its log is as it was left, its segments are back at once. Otherwise its log
    is read again from the head: a segment that is named there is back, with the priorities it had; a segment
    that is not is dropped and counted as lost; a segment that was evicted before is deleted once more.
    """

    def __init__(
        self, reader: LogReader, table: ItemTable, counters: Counters, pending_deletions: PendingDeletions
    ) -> None:
        self.reader, self.table, self.pending_deletions = reader, table, pending_deletions
        self._counters = counters
        self.availability = ShardAvailability()
        self._returning: set[int] = set()
        """Shards that answer again and may have parked segments."""
        self._unconfirmed: dict[int, dict[int, int]] = {}
        """Of each shard whose log is read again: slots, with generations, that it has not named yet."""

    @property
    def cursors(self) -> list[LogCursor]:
        """Cursors into the logs, one for each shard."""
        return self.reader.cursors

    @property
    def live(self) -> list[int]:
        """Shards that answer, as far as is known."""
        return [index for index in range(len(self.cursors)) if index not in self.availability]

    def park(self, shard_index: int, error: ShardUnavailable) -> None:
        """Leave a shard alone, and what it holds undrawn, until it answers."""
        # Deletions that are not answered yet wait in `pending_deletions` again.
        self.cursors[shard_index].pipeline.close()
        self.availability.park(self.cursors[shard_index].shard, error)
        self.table.park(shard_index)

    def park_failed(self) -> list[int]:
        """Park the shards that the reader found silent."""
        failures, self.reader.failures = self.reader.failures, {}
        for shard_index, error in failures.items():
            self.park(shard_index, error)
        return list(failures)

    def note_returned(self) -> None:
        """Take note of the shards that answer again."""
        self._returning.update(self.availability.returned())

    def rewind(self, shard_index: int) -> None:
        """Read a shard's log again from its head: until then nothing that it held is sure."""
        # No warning: each start of a server leads here. `_drop_unnamed` warns if anything is lost.
        logger.info(
            "%r was started again or is not as it was left: its log is read again",
            self.cursors[shard_index].shard,
        )
        self.cursors[shard_index].rewind()
        self.pending_deletions.forget(shard_index)
        slots = self.table.of_shard(shard_index)
        for slot in slots.tolist():
            # An old id may name another segment by now.
            self.table.log_ids[slot] = ""
        generations = self.table.slots["generation"][slots]
        # With generations, because a slot may be given to another segment while the log is read.
        self._unconfirmed[shard_index] = dict(zip(slots.tolist(), generations.tolist(), strict=True))

    def resolve(self, polls: dict[int, Poll]) -> None:
        """Decide, once what `polls` found was taken, about repeated entries and what may be back or lost.

        A shard that failed meanwhile is taken out of `polls`.
        """
        # First, because entries that are named again confirm segments.
        self._resolve_repeats()
        for shard_index in self.park_failed():
            polls.pop(shard_index, None)
        for shard_index in self._returning & polls.keys():
            # A log that changed is read from its head first: what it names is what the shard still holds.
            if polls[shard_index].as_left:
                self._bring_back(shard_index)
        for shard_index in self._unconfirmed.keys() & polls.keys():
            if polls[shard_index].as_left and self.is_at_the_end(shard_index, polls[shard_index]):
                self._drop_unnamed(shard_index)

    def forget(self, gone: SegmentsGone) -> None:
        """Drop segments that cannot be read, and park shards that do not answer."""
        for shard_index, error in gone.silent.items():
            self.park(shard_index, error)
        for slot in (*gone.missing, *gone.corrupt):
            self.lose(slot)
        self._counters.missing += len(gone.missing)
        self._counters.rejected += len(gone.corrupt)

    def lose(self, slot: int) -> None:
        """Drop a segment that is gone or damaged."""
        num_items = int(self.table.slots["num_items"][slot])
        self.reader.ledger.lose(self.table.identity(slot), num_items, was_taken=True)
        self._drop(slot)

    def _is_unconfirmed(self, slot: int, shard_index: int) -> bool:
        """Whether the shard's log is being read again and has not named this segment of it yet."""
        row = self.table.slots[slot]
        generation = self._unconfirmed.get(shard_index, {}).get(slot)
        return generation is not None and generation == row["generation"] and shard_index == row["shard"]

    def _resolve_repeats(self) -> None:
        """Decide about entries of segments that were taken before."""
        repeats, self.reader.repeats = self.reader.repeats, []
        for shard_index, entry in repeats:
            slot = self.table.slot_of.get(entry.identity) if entry.identity is not None else None
            if slot is None:
                # Evicted, but its server has lost the deletion; or a copy of such a segment.
                self.pending_deletions.note(shard_index, entry.log_id, entry.identity)
            elif self.table.slots["shard"][slot] == shard_index:
                self._named_again(slot, shard_index, entry.log_id)
            elif self._may_come_from(slot):
                # The copy takes the place of a segment that its own shard may have lost.
                self.pending_deletions.note(
                    int(self.table.slots["shard"][slot]), self.table.log_ids[slot], entry.identity
                )
                self.table.move(slot, shard_index, entry.log_id)
                self._returning.add(shard_index)
            else:
                self.pending_deletions.note(shard_index, entry.log_id, entry.identity)

    def _named_again(self, slot: int, shard_index: int, log_id: str) -> None:
        """A shard's log names a segment that it holds: by the one entry of it, or by another."""
        if not self.table.log_ids[slot]:
            self._unconfirmed.get(shard_index, {}).pop(slot, None)
            self.table.log_ids[slot] = log_id
            self._returning.add(shard_index)
        elif self.table.log_ids[slot] != log_id:
            # Both entries name the same key, so only this entry is deleted.
            self.pending_deletions.note(shard_index, log_id, None)

    def _may_come_from(self, slot: int) -> bool:
        """Whether nobody knows if a segment's shard still has it, so that a copy elsewhere is welcome."""
        home = int(self.table.slots["shard"][slot])
        return bool(self.table.parked[slot]) or self._is_unconfirmed(slot, home)

    def is_at_the_end(self, shard_index: int, poll: Poll) -> bool:
        """Whether a poll saw the end of a log, and all of it was taken."""
        last = poll.entries[-1].log_id if poll.entries else self.cursors[shard_index].position
        return not poll.book.pending and self.cursors[shard_index].position == last

    def _bring_back(self, shard_index: int) -> None:
        """Unpark what the shard is known to hold; what was not read yet is read, some at a time."""
        own = self.table.of_shard(shard_index)
        parked = own[self.table.parked[own]].tolist()
        slots = [slot for slot in parked if not self._is_unconfirmed(slot, shard_index)]
        self.table.unpark([slot for slot in slots if len(self.table.blocks[slot])])
        unread = [slot for slot in slots if not len(self.table.blocks[slot])]
        # Oldest first: older segments that are not read yet would make evicted ones look lost.
        unread.sort(key=self.table.slots["generation"].__getitem__)
        try:
            self._fill(shard_index, unread[:FILL_SEGMENTS])
        except ShardUnavailable as error:
            self.park(shard_index, error)
        if len(unread) <= FILL_SEGMENTS:
            self._returning.discard(shard_index)

    def _fill(self, shard_index: int, slots: list[int]) -> None:
        """Read segments whose places a checkpoint gave while their shard did not answer."""
        sizes = {self.table.identity(slot): int(self.table.slots["num_bytes"][slot]) for slot in slots}
        gone = []
        for slot, data in zip(slots, self.reader.read_again(shard_index, sizes), strict=True):
            found = None if data is None else decode_as(self.reader, data, self.table.slots[slot])
            if isinstance(found, tuple):
                self.table.fill(slot, found[1], found[0])
            elif found is None:
                gone.append(slot)
            else:
                self._counters.rejected += 1
                self.lose(slot)
        self._let_go(shard_index, gone)

    def _let_go(self, shard_index: int, gone: list[int]) -> None:
        """Take segments out that their shard does not have: evicted after a checkpoint, or lost.

        A segment that this process has read was there after the checkpoint, and only this process evicts.
        """
        # Without those in question: the oldest of them would count as there, and all of them as lost.
        there = np.setdiff1d(self.table.of_shard(shard_index), gone)
        generations = self.table.slots["generation"]
        log_goes_on = self.cursors[shard_index].position != LOG_START
        oldest = int(generations[there].min()) if len(there) else None
        for slot in gone:
            unread = not len(self.table.blocks[slot])
            if unread and was_evicted(int(generations[slot]), oldest, log_goes_on=log_goes_on):
                self._counters.evicted += int(self.table.slots["num_items"][slot])
                self._drop(slot)
            else:
                self._counters.missing += 1
                self.lose(slot)

    def _drop(self, slot: int) -> None:
        """Remove a segment that its shard does not have as it was; its entry leaves with its neighbours."""
        shard_index = int(self.table.slots["shard"][slot])
        self.cursors[shard_index].set_aside(self.table.log_ids[slot], self.table.identity(slot))
        self.table.remove(slot)

    def _drop_unnamed(self, shard_index: int) -> None:
        unnamed = [slot for slot in self._unconfirmed[shard_index] if self._is_unconfirmed(slot, shard_index)]
        del self._unconfirmed[shard_index]
        self.cursors[shard_index].end_rereading()
        for slot in unnamed:
            # Its key may be there without an entry (docs/decisions/0010).
            self.pending_deletions.note(shard_index, "", self.table.identity(slot))
        missing = self._counters.missing
        self._let_go(shard_index, unnamed)
        if lost := self._counters.missing - missing:
            logger.warning("%r has lost %d segments", self.cursors[shard_index].shard, lost)


def decode_as(reader: LogReader, data: bytes, row: Any) -> tuple[SegmentHeader, Segment] | SegmentError:
    """The segment that a row of the table is of, or what is wrong with it."""
    try:
        header, segment = reader.decode(data)
    except SegmentError as error:
        return error
    same = (segment.num_items, segment.lead) == (row["num_items"], row["lead"])
    # A row of a smaller n-step keeps fewer columns than were stored.
    if segment.identity != SegmentIdentity.of_row(row) or not same or segment.num_steps < row["num_steps"]:
        return SegmentError(f"segment {segment.identity} is not the one that was there")
    return header, segment
