"""What a shard's log and ticket book hold, read from bytes that are not trusted."""

from typing import NamedTuple

from replay.types import SegmentIdentity

LARGEST_COUNT = 2**31


class LogEntry(NamedTuple):
    """One line of a shard's log. `identity` is None, and the counts 0, where the line is not one of ours."""

    log_id: str
    identity: SegmentIdentity | None
    num_items: int
    num_steps: int
    num_bytes: int


class Ticket(NamedTuple):
    """A reservation that covers (end - items, end] of a shard's numbering; `end` is None until noted.

    `attempt` counts the shards that the writer tried for this segment before this one.
    """

    identity: SegmentIdentity
    items: int
    attempt: int
    end: int | None


class TicketBook(NamedTuple):
    """One shard's tickets at one moment; `pending` items are in the log after the reader's cursor."""

    reserved: int
    allowed: int
    outstanding: tuple[Ticket, ...]
    pending: int = 0


def parse_entry(log_id: bytes, fields: dict[bytes, bytes] | None) -> LogEntry:
    """A log row as an entry; anything that is not ours becomes one without an identity."""
    try:
        identity = _parse_identity((fields or {})[b"id"])
        items, steps, size = (_parse_count((fields or {})[key]) for key in (b"n", b"s", b"b"))
    except (KeyError, ValueError):
        return LogEntry(log_id.decode(), None, 0, 0, 0)
    return LogEntry(log_id.decode(), identity, items, steps, size)


def parse_ticket(name: bytes, value: bytes) -> Ticket | None:
    """A field of the ticket book, `items:attempt:end`; None where it is not one of ours."""
    try:
        items, attempt, end = value.split(b":")
        return Ticket(_parse_identity(name), _parse_count(items), int(attempt), int(end) if end else None)
    except ValueError:
        return None


def _parse_count(text: bytes) -> int:
    count = int(text)
    if not 0 < count < LARGEST_COUNT:
        raise ValueError("count")
    return count


def _parse_identity(text: bytes) -> SegmentIdentity:
    # Only the canonical spelling: two spellings of one identity would be two segments.
    identity = SegmentIdentity.parse(text.decode("ascii"))
    if min(identity) < 0 or str(identity).encode() != text:
        raise ValueError("identity")
    return identity
