"""Keeps the item table in step with the shards' logs, whatever happens to the shards."""

import logging
from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from replay.batches.observations import SegmentsGone
from replay.errors import SegmentError, ShardUnavailable
from replay.items.counters import Counters
from replay.items.priorities import Priorities
from replay.items.table import FREE, ItemTable
from replay.log.cursor import UNKNOWN_PENDING, Look, ShardTail
from replay.log.reader import LogReader, ReceivedSegment
from replay.owner.eviction import Departures, Eviction
from replay.segments.codec import SegmentHeader
from replay.shards.availability import Parking
from replay.shards.records import LOG_START, TicketBook
from replay.shards.shard import Shard
from replay.types import Segment, SegmentIdentity

logger = logging.getLogger(__name__)

FILL_SEGMENTS = 128
"""Segments read back at once: some 4 to 10 MB of encoded and 64 MB of decoded frames."""


class Follower:
    """Indexes what the logs say, and parks the segments of shards that do not answer.

    When a shard answers again and its log is as it was left, its segments are back at once. Otherwise its log
    is read again from the head: a segment that is named there is back, with the priorities it had; one that
    is not is dropped and counted as lost; one that was evicted before is deleted once more.
    """

    def __init__(
        self, reader: LogReader, table: ItemTable, priorities: Priorities, counters: Counters, *, owns: bool
    ) -> None:
        """With `owns`, what leaves the table is deleted from the shards as well."""
        self.reader, self.table = reader, table
        self._priorities, self._counters = priorities, counters
        self.parking = Parking()
        self.departures = Departures(reader.tails, deletes=owns)
        self.eviction = Eviction(table, counters, self.departures)
        self._returning: set[int] = set()
        """Shards that answer again and may have parked segments."""
        self._unconfirmed: dict[int, dict[int, int]] = {}
        """Of each shard whose log is read again: slots, with generations, that it has not named yet."""

    @property
    def tails(self) -> list[ShardTail]:
        """One a shard."""
        return self.reader.tails

    @property
    def live(self) -> list[int]:
        """Shards that answer, as far as is known."""
        return [shard for shard in range(len(self.tails)) if shard not in self.parking]

    def add_shard(self, shard: Shard) -> None:
        """Follow one more shard from now on."""
        self.reader.add_shard(shard)

    def has_log(self, shard: int) -> bool:
        """Whether a shard's log has entries; False where it does not answer."""
        try:
            return bool(self.tails[shard].shard.read_log(LOG_START, 1))
        except ShardUnavailable as error:
            self.park(shard, error)
            return False

    def look(self, limit: int, *, memory: Container[int] = ()) -> dict[int, Look]:
        """One look at every shard that answers; another one at those whose logs have to be read again."""
        self._returning.update(self.parking.returned())
        looks = self.reader.look(limit, self.live, memory=memory)
        changed = [shard for shard, look in looks.items() if not look.as_left]
        for shard in changed:
            self._read_again(shard)
            del looks[shard]
        looks |= self.reader.look(limit, changed, memory=memory)
        self.park_failed()
        return looks

    def take(self, looks: dict[int, Look]) -> int:
        """Index what the looks found, the oldest leaving for it; returns the items added.

        A shard that fails meanwhile is taken out of `looks`.
        """
        added = sum(self._insert(received) for received in self.reader.take(looks))
        self._resolve_repeats()
        for shard in self.park_failed():
            looks.pop(shard, None)
        if self._returning or self._unconfirmed:
            self._welcome(looks)
        return added

    def book(self, shard: int, look: Look) -> TicketBook:
        """The tickets that a look found, with what is in the log and was not taken as pending."""
        at_end = look.as_left and self._is_at_the_end(shard, look)
        return look.book if at_end else look.book._replace(pending=UNKNOWN_PENDING)

    def park(self, shard: int, error: ShardUnavailable) -> None:
        """Leave a shard alone, and what it holds undrawn, until it answers."""
        self.tails[shard].link.close()
        self.parking.park(self.tails[shard].shard, error)
        self.table.park(shard)

    def park_failed(self) -> list[int]:
        """Park the shards that the reader found silent."""
        failures, self.reader.failures = self.reader.failures, {}
        for shard, error in failures.items():
            self.park(shard, error)
        return list(failures)

    def forget(self, gone: SegmentsGone) -> None:
        """Drop segments that cannot be read, and park shards that do not answer."""
        for shard, error in gone.silent.items():
            self.park(shard, error)
        for slot in (*gone.missing, *gone.corrupt):
            self.lose(slot)
        self._counters.missing += len(gone.missing)
        self._counters.rejected += len(gone.corrupt)

    def settle(self) -> None:
        """Wait until the shards have answered everything they were told."""
        for shard in self.live:
            try:
                self.tails[shard].link.settle()
            except ShardUnavailable as error:
                self.park(shard, error)

    def close(self) -> None:
        """Close the connections and stop waiting for parked shards."""
        self.parking.close()
        for tail in self.tails:
            tail.link.close()

    def lose(self, slot: int) -> None:
        """Drop a segment that is gone or damaged."""
        num_items = int(self.table.slots["num_items"][slot])
        self.reader.accounts.lose(self.table.identity(slot), num_items, was_taken=True)
        self.table.remove(slot)

    def _insert(self, received: ReceivedSegment) -> int:
        """Index one segment; returns its number of items."""
        segment = received.segment
        size = segment.num_items, segment.num_steps, received.num_bytes
        if not self.table.fits_ever(*size):
            self._refuse(received)
            return 0
        self.eviction.make_room(*size)
        self.table.insert(
            segment,
            received.header,
            self._priorities.first_masses(segment),
            shard=received.shard,
            log_id=received.log_id,
            num_bytes=received.num_bytes,
        )
        self.eviction.note_bytes(received.shard, received.num_bytes)
        if not received.was_lost:
            self._counters.inserted += segment.num_items
        return segment.num_items

    def _refuse(self, received: ReceivedSegment) -> None:
        """Count a segment that can never have a place."""
        segment = received.segment
        self._counters.rejected += 1
        self.reader.accounts.lose(segment.identity, segment.num_items, was_taken=False)
        self.tails[received.shard].unindexed.append((received.log_id, segment.identity))

    def _read_again(self, shard: int) -> None:
        # After each start of a server; whether anything is lost shows at the end.
        logger.info(
            "%r was started again or is not as it was left: its log is read again", self.tails[shard].shard
        )
        self.tails[shard].rewind()
        self.departures.forget(shard)
        own = (self.table.slots["shard"] == shard) & (self.table.slots["generation"] != FREE)
        slots = np.flatnonzero(own)
        for slot in slots.tolist():  # by an id of before another segment may be named now
            self.table.log_ids[slot] = ""
        generations = self.table.slots["generation"][slots]
        self._unconfirmed[shard] = dict(zip(slots.tolist(), generations.tolist(), strict=True))

    def _is_unconfirmed(self, slot: int, shard: int) -> bool:
        """Whether the shard's log is being read again and has not named this segment of it yet."""
        row = self.table.slots[slot]
        generation = self._unconfirmed.get(shard, {}).get(slot)
        return generation is not None and generation == row["generation"] and shard == row["shard"]

    def _resolve_repeats(self) -> None:
        """Decide about entries of segments that were taken before."""
        repeats, self.reader.repeats = self.reader.repeats, []
        for shard, entry in repeats:
            slot = self.table.slot_of.get(entry.identity) if entry.identity is not None else None
            if slot is None:  # evicted, which its server has forgotten; or a copy of such a one
                self.departures.note(shard, entry.log_id, entry.identity)
            elif self.table.slots["shard"][slot] == shard:
                self._named_again(slot, shard, entry.log_id)
            elif self._may_come_from(slot):
                self.departures.note(
                    int(self.table.slots["shard"][slot]), self.table.log_ids[slot], entry.identity
                )
                self.table.move(slot, shard, entry.log_id)
                self._returning.add(shard)
            else:
                self.departures.note(shard, entry.log_id, entry.identity)

    def _named_again(self, slot: int, shard: int, log_id: str) -> None:
        """A shard's log names a segment that it holds: by the one entry of it, or by another."""
        if not self.table.log_ids[slot]:
            self._unconfirmed.get(shard, {}).pop(slot, None)
            self.table.log_ids[slot] = log_id
            self._returning.add(shard)
        elif self.table.log_ids[slot] != log_id:
            self.departures.note(shard, log_id, None)

    def _may_come_from(self, slot: int) -> bool:
        """Whether nobody knows if a segment's shard still has it, so that a copy elsewhere is welcome."""
        home = int(self.table.slots["shard"][slot])
        return bool(self.table.parked[slot]) or self._is_unconfirmed(slot, home)

    def _welcome(self, looks: Mapping[int, Look]) -> None:
        """Bring back what shards hold that answer, and drop what their logs do not name any more."""
        for shard in self._returning & looks.keys():
            if looks[shard].as_left:
                self._bring_back(shard)
        for shard in self._unconfirmed.keys() & looks.keys():
            if looks[shard].as_left and self._is_at_the_end(shard, looks[shard]):
                self._drop_unnamed(shard)

    def _is_at_the_end(self, shard: int, look: Look) -> bool:
        """Whether a look saw the end of a log, and all of it was taken."""
        last = look.entries[-1].log_id if look.entries else self.tails[shard].cursor
        return not look.book.pending and self.tails[shard].cursor == last

    def _bring_back(self, shard: int) -> None:
        """Unpark what the shard is known to hold; what was not read yet is read, some at a time."""
        parked = self.table.parked & (self.table.slots["shard"] == shard)
        slots = [slot for slot in np.flatnonzero(parked).tolist() if not self._is_unconfirmed(slot, shard)]
        self.table.unpark([slot for slot in slots if len(self.table.blocks[slot])])
        unread = [slot for slot in slots if not len(self.table.blocks[slot])]
        unread.sort(key=self.table.slots["generation"].__getitem__)
        try:
            self._fill(shard, unread[:FILL_SEGMENTS])
        except ShardUnavailable as error:
            self.park(shard, error)
        if len(unread) <= FILL_SEGMENTS:
            self._returning.discard(shard)

    def _fill(self, shard: int, slots: list[int]) -> None:
        """Read segments whose places a checkpoint gave while their shard did not answer."""
        sizes = {self.table.identity(slot): int(self.table.slots["num_bytes"][slot]) for slot in slots}
        gone = []
        for slot, data in zip(slots, self.reader.read_again(shard, sizes), strict=True):
            found = None if data is None else decode_as(self.reader, data, self.table.slots[slot])
            if isinstance(found, tuple):
                self.table.fill(slot, found[1], found[0])
            elif found is None:
                gone.append(slot)
            else:
                self._counters.rejected += 1
                self.lose(slot)
        self._let_go(shard, gone)

    def _let_go(self, shard: int, gone: list[int]) -> None:
        """Take segments out that their shard does not have.

        Those that were not read since a checkpoint, and are older than all that are there, were evicted after
        it; the others are lost.
        """
        there = (self.table.slots["shard"] == shard) & (self.table.slots["generation"] != FREE)
        there[gone] = False
        generations = self.table.slots["generation"]
        has_log = self.tails[shard].cursor != LOG_START
        oldest = int(generations[there].min()) if there.any() else self.table.next_generation * has_log
        for slot in gone:
            if not len(self.table.blocks[slot]) and generations[slot] < oldest:
                self._counters.evicted += int(self.table.slots["num_items"][slot])
                self.table.remove(slot)
            else:
                self._counters.missing += 1
                self.lose(slot)

    def _drop_unnamed(self, shard: int) -> None:
        unnamed = [slot for slot in self._unconfirmed[shard] if self._is_unconfirmed(slot, shard)]
        del self._unconfirmed[shard]
        self.tails[shard].end_rereading()
        for slot in unnamed:
            # Its key may be there without an entry (docs/decisions/0010).
            self.departures.note(shard, "", self.table.identity(slot))
        missing = self._counters.missing
        self._let_go(shard, unnamed)
        if lost := self._counters.missing - missing:
            logger.warning("%r has lost %d segments", self.tails[shard].shard, lost)


def decode_as(reader: LogReader, data: bytes, row: Any) -> tuple[SegmentHeader, Segment] | SegmentError:
    """The segment that a row of the table is of, or what is wrong with it."""
    try:
        header, segment = reader.decode(data)
    except SegmentError as error:
        return error
    identity = SegmentIdentity(int(row["actor"]), int(row["incarnation"]), int(row["seq"]))
    same = (segment.num_items, segment.lead) == (row["num_items"], row["lead"])
    if segment.identity != identity or not same or segment.num_steps < row["num_steps"]:
        return SegmentError(f"segment {segment.identity} is not the one that was there")
    return header, segment
