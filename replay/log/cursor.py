"""Follow one shard's log, and notice when it is no longer as it was left."""

import bisect
import logging
import re
import time
from collections import deque
from collections.abc import Set
from typing import Any, NamedTuple

from redis import RedisError

from replay.shards.pipeline import Request, pack
from replay.shards.records import LOG_START, LogEntry, TicketBook, log_order, parse_row
from replay.shards.shard import Shard
from replay.types import SegmentIdentity

logger = logging.getLogger(__name__)

UNKNOWN_PENDING = 2**62
"""Pending items of a log with entries after those read: the owner must read them before it allows more."""
REREAD_ENTRIES = 4_096
"""Entries requested at once of a log that is read again: most name segments that are known."""
WARN_EVERY_S = 30.0
MEMORY_FIELDS = (b"used_memory", b"mem_not_counted_for_evict", b"maxmemory")


class Memory(NamedTuple):
    """Bytes in a server that count against `maximum` (0: no limit)."""

    used: int
    maximum: int


class Poll(NamedTuple):
    """The result of one poll of a shard."""

    entries: list[LogEntry]
    """New entries of its log; empty if the log is not as it was left."""
    as_left: bool
    """Whether the entry that was read last is still in its place, and the server is the same as before."""
    book: TicketBook
    owner: bytes | None
    memory: Memory | None
    """None if it was not asked for."""


class LogCursor:
    """Reads one shard's log forward and detects a rollback.

    A server that lost the end of its file continues its log from an earlier entry. The ids may be
    the same as before if its clock was set back, and what was deleted since is there again. Every
    poll therefore begins at the entry that was read last, which must be there with the same
    segment. The first poll over a new connection also asks whether the server is still the same:
    another may have lost anything (docs/decisions/0010).

    Only the reader that deletes entries can expect the last one to be there: for others `anchored`
    is off.
    """

    def __init__(self, shard: Shard, *, anchored: bool = True) -> None:
        self.shard, self.pipeline = shard, shard.new_pipeline()
        self._anchored = anchored
        self.position = LOG_START
        """Id of the last entry read."""
        self.unindexed: deque[tuple[str, SegmentIdentity | None]] = deque()
        """Entries whose segments are not held, oldest first: they are deleted with their neighbours."""
        self._anchor: LogEntry | None = None
        self._anchor_row: Any = None
        self._known_opening = 0
        self._server = ""
        self._is_another = False
        self._reread_to = LOG_START
        self._warned_at = -WARN_EVERY_S
        self._request = Request(b"", 0)
        self._asks: tuple[object, ...] = ()
        self._count = 0
        self._book: tuple[Any, TicketBook] = ((), TicketBook(0, 0, ()))

    def ask(self, count: int, *, memory: bool = False) -> None:
        """Request up to `count` new entries, the tickets, the owner and, with `memory`, the memory."""
        if self.position != self._reread_to and self.was_read(self.position):
            count = max(count, REREAD_ENTRIES)
        # One more for the anchor, which XRANGE returns first.
        self._count = count + (self._anchor is not None)
        known = self.pipeline.is_open and self.pipeline.openings == self._known_opening
        self._prepare(memory, with_server=not known)
        self.pipeline.ask(self._request)

    def answer(self) -> Poll:
        """Return what was asked for; raises as `ShardPipeline.answer` does."""
        answers = self.pipeline.answer(self._request)
        if self.pipeline.openings != self._known_opening:
            if not self._asks[1]:  # the connection broke meanwhile, so this may be another server
                self._prepare(bool(self._asks[0]), with_server=True)
                answers = self.pipeline.answer(self._request)
            self._known_opening = self.pipeline.openings
        # A refused INFO is tolerated: its parser then reports that the server does not say.
        for refusal in answers[:3]:
            if isinstance(refusal, RedisError):
                raise self.shard.refusal(refusal)
        (owner, reserved, allowed), tickets, rows, *further = answers
        memory = _memory(further.pop(0)) if self._asks[0] else None
        if self._asks[1]:
            self._note_server(further.pop(0))
        rows, as_left = self._new_rows(rows)
        as_left = as_left and not self._is_another
        entries = [parse_row(row) for row in rows] if as_left else []
        # With as many entries as requested, more may follow, so the pending items are not known.
        ends = as_left and len(entries) < self._count - (self._anchor is not None)
        book = self._parse_book(reserved, allowed, tickets)
        return Poll(entries, as_left, book if ends else book._replace(pending=UNKNOWN_PENDING), owner, memory)

    def advance(self, entries: list[LogEntry]) -> None:
        """Note that these entries were read."""
        if entries:
            self._anchor, self._anchor_row = entries[-1] if self._anchored else None, None
            self.position = entries[-1].log_id

    def forget(self, log_id: str) -> None:
        """Note that an entry was deleted, so that it is no longer expected to be there."""
        if self._anchor is not None and self._anchor.log_id == log_id:
            self._anchor = self._anchor_row = None

    def set_aside(self, log_id: str, identity: SegmentIdentity | None) -> None:
        """Note an entry whose segment is not held: it was not taken, or was lost since."""
        # An entry without an id is yet to be named, by a log that is being read again.
        if log_id:
            bisect.insort(self.unindexed, (log_id, identity), key=lambda entry: log_order(entry[0]))

    def keep(self, identities: Set[SegmentIdentity]) -> None:
        """Note that segments are there after all: the deletion of their untaken entries must spare them."""
        self.unindexed = deque(
            (log_id, None if name in identities else name) for log_id, name in self.unindexed
        )

    def warn(self, refusal: RedisError) -> None:
        """Log why the server refused a write, at most every 30 s, because each poll tries again."""
        if time.monotonic() - self._warned_at >= WARN_EVERY_S:
            self._warned_at = time.monotonic()
            logger.warning("%s", self.shard.refusal(refusal))

    def was_read(self, log_id: str) -> bool:
        """Whether the log is being read again and had been read up to this entry before."""
        return log_order(log_id) <= log_order(self._reread_to)

    def rewind(self) -> None:
        """Start reading the whole log again."""
        # The later one, because this may interrupt an earlier rereading.
        self._reread_to = max(self._reread_to, self.position, key=log_order)
        self._is_another = False
        self.position, self._anchor, self._anchor_row = LOG_START, None, None
        # The rereading finds these entries again.
        self.unindexed.clear()

    def end_rereading(self) -> None:
        """Note that the log is read again: with a clock set back, new entries may have old ids."""
        self._reread_to = LOG_START

    @property
    def state(self) -> dict[str, Any]:
        """The cursor's state, JSON-able."""
        entry = self._anchor
        anchor = None if entry is None else [entry.log_id, _names(entry.identity), *entry[2:]]
        unindexed = [[log_id, _names(identity)] for log_id, identity in self.unindexed]
        # Another server whose log is not read again yet: whoever resumes from this state must do that.
        server = "" if self._is_another else self._server
        return {"cursor": self.position, "anchor": anchor, "unindexed": unindexed, "server": server}

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from where `state` was taken."""
        self.position = str(state["cursor"])
        self.unindexed = deque((str(log_id), _identity(name)) for log_id, name in state["unindexed"])
        # Without a server's id in the state, the first poll has the log read again.
        self._server = str(state.get("server", ""))
        self._anchor = self._anchor_row = None
        if state["anchor"] is not None and self._anchored:
            log_id, name, *counts = state["anchor"]
            self._anchor = LogEntry(str(log_id), _identity(name), *map(int, counts))

    def _prepare(self, memory: bool, with_server: bool) -> None:
        asks = (memory, with_server, self.position, self._anchor is not None, self._count)
        # Most polls ask the same again, so the packed request is kept.
        if asks == self._asks:
            return
        shard, first = self.shard, self.position if self._anchor is not None else "(" + self.position
        # Tickets before the log: a commit in between then counts twice for a moment, rather than not at all.
        commands: list[tuple[str | int, ...]] = [
            ("MGET", shard.owner_key, shard.reserved_key, shard.allowed_key),
            ("HGETALL", shard.outstanding_key),
            ("XRANGE", shard.log, first, "+", "COUNT", self._count),
        ]
        commands += [("INFO", "memory")] if memory else []
        commands += [("INFO", "server")] if with_server else []
        self._asks, self._request = asks, pack(*commands)

    def _note_server(self, answer: Any) -> None:
        """Compare the server with the one before; a server that hides its id may be another each time."""
        server = _run_id(answer)
        # Where nothing was read yet, nothing can be missing.
        if self.position != LOG_START and (not server or server != self._server):
            self._is_another = True
        self._server = server

    def _new_rows(self, rows: list[Any]) -> tuple[list[Any], bool]:
        """Return the rows after the anchor, and whether the anchor was there."""
        if self._anchor is None:
            return rows, True
        if not rows:
            return [], False
        # Most polls return the very row of the last one, which need not be parsed again.
        if rows[0] != self._anchor_row:
            # The writer's total is not compared: the entry in a copy of a run may lack it.
            if parse_row(rows[0])[:-1] != self._anchor[:-1]:
                return [], False
            self._anchor_row = rows[0]
        return rows[1:], True

    def _parse_book(self, reserved: bytes | None, allowed: bytes | None, flat: list[bytes]) -> TicketBook:
        raw = (reserved, allowed, flat)
        if raw != self._book[0]:
            self._book = raw, self.shard.book(reserved, allowed, zip(flat[::2], flat[1::2], strict=True))
        return self._book[1]


def _memory(answer: Any) -> Memory | None:
    """Parse a server's memory, less the buffers that it does not count as used; None if it does not say."""
    found = dict(re.findall(rb"^(\w+):(\d+)\r?$", answer, re.MULTILINE)) if isinstance(answer, bytes) else {}
    used, uncounted, maximum = (int(found.get(field, 0)) for field in MEMORY_FIELDS)
    return Memory(max(0, used - uncounted), maximum) if found else None


def _run_id(answer: Any) -> str:
    """Return the id that a server has from its start to its end; "" if it does not say."""
    found = re.search(rb"^run_id:(\w+)", answer, re.MULTILINE) if isinstance(answer, bytes) else None
    return found[1].decode() if found else ""


def _names(identity: SegmentIdentity | None) -> list[int] | None:
    return None if identity is None else list(identity)


def _identity(name: Any) -> SegmentIdentity | None:
    return None if name is None else SegmentIdentity.of(*name)
