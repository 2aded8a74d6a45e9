"""Parse a shard's log, ticket book and owner's note from bytes that are not trusted."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from replay.segments.header import MAX_N_STEP, MAX_STEPS, SegmentHeader
from replay.types import Segment, SegmentIdentity

# Python's numbers have no end, and the arrays that these are added up in do.
LARGEST_COUNT = 2**31
LARGEST_TOTAL = 2**62
LOG_START = "0-0"
"""The cursor before the first entry of a log."""


class LogEntry(NamedTuple):
    """One entry of a shard's log. `identity` is None, and the counts are 0, if the entry is not ours."""

    log_id: str
    identity: SegmentIdentity | None
    num_items: int
    num_steps: int
    num_bytes: int
    total: int = 0
    """Items that its writer has written in all, this segment's included; 0 if the entry does not say."""

    def is_of(self, segment: Segment | SegmentHeader, num_bytes: int) -> bool:
        """Whether the entry names this segment, with its numbers of items, steps and encoded bytes."""
        found = (segment.identity, segment.num_items, segment.num_steps, num_bytes)
        return found == (self.identity, self.num_items, self.num_steps, self.num_bytes)


class Ticket(NamedTuple):
    """A reservation of (end - items, end] in a shard's numbering; `end` is None until it is noted.

    `attempt` counts the shards that the writer tried for this segment before this one.
    """

    identity: SegmentIdentity
    items: int
    attempt: int
    end: int | None


class TicketBook(NamedTuple):
    """One shard's tickets at one moment; `pending` items are in the log and not read yet."""

    reserved: int
    allowed: int
    outstanding: tuple[Ticket, ...]
    pending: int = 0


class Owner(NamedTuple):
    """Owner of a shard: the latest owner has the highest epoch; `token` tells two of the same epoch apart."""

    epoch: int = 0
    token: str = ""

    def __str__(self) -> str:
        return f"{self.epoch}:{self.token}"


def parse_entry(log_id: bytes, fields: dict[bytes, bytes] | None) -> LogEntry:
    """Return a log row as an entry; anything that is not ours becomes an entry without an identity.

    Rows have no checksum. A row is therefore refused if it claims more than a segment, or all
    segments of its writer up to this one, can hold.
    """
    fields = fields or {}
    try:
        identity = SegmentIdentity.parse(fields[b"id"].decode())
        items = _parse_count(fields[b"n"], MAX_STEPS + 1)
        steps = _parse_count(fields[b"s"], MAX_STEPS + MAX_N_STEP)
        size, total = _parse_count(fields[b"b"]), 0
        if b"t" in fields:
            # Segments are numbered from 0, so there are seq + 1 up to this one; the bound itself is too much.
            most = min(MAX_STEPS * (identity.seq + 1) + 1, LARGEST_TOTAL)
            total = _parse_count(fields[b"t"], most)
    # A name that is not UTF-8 is a ValueError, too.
    except (KeyError, ValueError):
        return LogEntry(log_id.decode(), None, 0, 0, 0)
    return LogEntry(log_id.decode(), identity, items, steps, size, total)


def entry_fields(entry: LogEntry) -> dict[str, str | int]:
    """Return an entry's fields as they are stored in a log: the inverse of `parse_entry`."""
    fields: dict[str, str | int] = {
        "id": str(entry.identity),
        "n": entry.num_items,
        "s": entry.num_steps,
        "b": entry.num_bytes,
    }
    return fields | ({"t": entry.total} if entry.total else {})


def parse_row(row: Sequence[object]) -> LogEntry:
    """Parse a log row as a server sends it: its id, and a flat list of names and values."""
    log_id, flat = row
    assert isinstance(log_id, bytes)
    pairs = flat if isinstance(flat, list) else []
    # Not strict: a list of odd length is somebody else's, and no reason to end.
    return parse_entry(log_id, dict(zip(pairs[::2], pairs[1::2], strict=False)))


def parse_ticket(name: bytes, value: bytes) -> Ticket | None:
    """Parse a field of the ticket book, `items:attempt:end`; None if it is not ours."""
    try:
        items, attempt, end = value.split(b":")
        ends_at = _parse_count(end, LARGEST_TOTAL) if end else None
        identity = SegmentIdentity.parse(name.decode())
        return Ticket(identity, _parse_count(items), _parse_count(attempt, least=0), ends_at)
    except ValueError:
        return None


def parse_owner(value: bytes | None) -> Owner:
    """Parse an owner's note, `epoch:token`; epoch 0 if there is none, or it is not ours."""
    try:
        epoch, token = (value or b"").decode("ascii").split(":")
        # By a pattern, because `int` also takes signs, blanks and underscores.
        return Owner(int(epoch), token) if re.fullmatch("[0-9]{1,18}", epoch) else Owner()
    except ValueError:
        return Owner()


def log_order(log_id: str) -> tuple[int, int]:
    """Return a log id as numbers, which compare in the log's order."""
    milliseconds, _, sequence = log_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def _parse_count(text: bytes, most: int = LARGEST_COUNT, least: int = 1) -> int:
    count = int(text)
    if not least <= count < most:
        raise ValueError("count")
    return count
