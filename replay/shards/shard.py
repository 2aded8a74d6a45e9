"""One Redis server's part of the replay: segments, their log and the limiter's tickets, in plain commands.

A write is one MULTI. Every call survives a dropped connection: it is repeated with backoff for
`retry_seconds`. Repeating a call is harmless: segments carry their identity, and a ticket taken
twice only leaves a hole in the numbering.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from replay.errors import ShardError, SignatureMismatch
from replay.segments.codec import signature_mismatch
from replay.shards.administration import ShardAdministration
from replay.shards.connection import Connection
from replay.shards.owning import ShardOwning
from replay.shards.pipeline import ShardPipeline, is_wrong_type
from replay.shards.records import (
    LOG_START,
    LogEntry,
    TicketBook,
    parse_entry,
    parse_ticket,
)
from replay.shards.writing import ShardWriting
from replay.types import SegmentIdentity, Signature

__all__ = ["LOG_START", "Shard"]

T = TypeVar("T")

KEYS = ("log", "meta", "reserved", "allowed", "outstanding", "owner", "alive", "folder")
"""Names below a run's prefix of all keys but those of segments."""


class Shard:
    """One Redis server holding part of a run's replay (hash tag `{run:index}`: one slot of a Redis Cluster).

    Raises ShardUnavailable if the server cannot be reached for `retry_seconds`, ShardFull if it
    refuses a write for lack of memory or disk, and ShardError for anything else, each in one line
    without credentials.
    """

    def __init__(self, url: str, *, run: str, index: int, retry_seconds: float = 30.0) -> None:
        # Braces would end the hash tag, and `*` or `[` are special in the patterns of SCAN.
        if not re.fullmatch(r"[\w.:+-]+", run):
            raise ShardError(f"run name {run!r}: letters, digits and . : + - _ only")
        self.index = index
        self._connection = Connection(url, name=f"shard {index}", retry_seconds=retry_seconds)
        self.client = self._connection.client
        self.call, self.refusal = self._connection.call, self._connection.refusal
        self._prefix = f"apexpert:{{{run}:{index}}}:"
        self._segment_prefix = self._prefix + "seg:"
        self.run_keys = [self._prefix + name for name in KEYS]
        """All keys but those of segments."""
        self.log, self.meta_key, self.reserved_key, self.allowed_key, *others = self.run_keys
        self.outstanding_key, self.owner_key, self.alive_key, self.folder_key = others
        self.writing = ShardWriting(self)
        self.owning = ShardOwning(self)
        self.administration = ShardAdministration(self)

    def __repr__(self) -> str:
        return f"Shard({self.index}, {self.address})"

    @property
    def address(self) -> str:
        """The URL without user and password, ending in the database's number."""
        return self._connection.address

    @property
    def retries(self) -> int:
        """Number of attempts that failed and were repeated, since the start."""
        return self._connection.retries

    @property
    def retry_seconds(self) -> float:
        """How long a call is repeated; a change also applies to a call in progress."""
        return self._connection.retry_seconds

    @retry_seconds.setter
    def retry_seconds(self, seconds: float) -> None:
        self._connection.retry_seconds = seconds

    def segment_key(self, identity: SegmentIdentity) -> str:
        """Return the key of a segment's bytes."""
        return f"{self._segment_prefix}{identity}"

    def new_pipeline(self) -> ShardPipeline:
        """Open a separate connection to this shard."""
        return ShardPipeline(self._connection)

    def ping(self) -> None:
        """Return once the server answers."""
        self.call(self.client.ping)

    def read_log(self, after: str, count: int) -> list[LogEntry]:
        """Return up to `count` log entries after the id `after`, oldest first; never blocks."""
        # The bracket leaves `after` itself out: a poll would otherwise bring its last entry back each time.
        rows = self.call(lambda: self.client.xrange(self.log, min="(" + after, count=count))
        return [parse_entry(*row) for row in rows]

    def fetch(self, identities: Sequence[SegmentIdentity]) -> list[bytes | None]:
        """Fetch whole segments in one pipeline; None for a segment that is gone."""
        return self.pipelined(identities, lambda pipe, identity: pipe.get(self.segment_key(identity)))

    def fetch_ranges(self, ranges: Sequence[tuple[SegmentIdentity, int, int]]) -> list[bytes]:
        """Fetch bytes [start, end) of segments in one pipeline; b"" for a segment that is gone."""

        def add(pipe: Any, item: tuple[SegmentIdentity, int, int]) -> None:
            identity, start, end = item
            # GETRANGE includes its last byte.
            pipe.getrange(self.segment_key(identity), start, end - 1)

        return [data or b"" for data in self.pipelined(ranges, add)]

    def tickets(self) -> TicketBook:
        """Read the ticket book; items in the log are not counted as pending."""

        def read() -> list[Any]:
            with self.client.pipeline(transaction=False) as pipe:
                pipe.mget(self.reserved_key, self.allowed_key)
                pipe.hgetall(self.outstanding_key)
                return list(pipe.execute())

        (reserved, allowed), fields = self.call(read)
        return self.book(reserved, allowed, fields.items())

    def book(
        self, reserved: bytes | None, allowed: bytes | None, fields: Iterable[tuple[bytes, bytes]]
    ) -> TicketBook:
        """Return the ticket book in a server's answers; raises ShardError as `whole` does."""
        tickets = (parse_ticket(name, value) for name, value in fields)
        outstanding = tuple(ticket for ticket in tickets if ticket is not None)
        return TicketBook(self.whole(reserved), self.whole(allowed), outstanding)

    def check_meta(self, signature: Signature, *, writes: bool = False) -> None:
        """Compare `signature` with that of the data here, which the first caller notes.

        With `writes`, a smaller stack or n_step is noted as the data's: what is written from now on
        serves no larger one. Raises SignatureMismatch.
        """
        encoded = json.dumps(asdict(signature))

        def note() -> bytes:
            # Of callers that come at once, all read back what the first one has set.
            self.client.set(self.meta_key, encoded, nx=True)
            return bytes(self.client.get(self.meta_key) or b"")

        stored = self._parse_signature(self.call(note))
        mismatch = signature_mismatch(stored, signature)
        if mismatch is not None:
            raise SignatureMismatch(f"{self}: {mismatch}")
        if writes and signature != stored:
            self.call(lambda: self.client.set(self.meta_key, encoded))

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self.writing.close()
        self.client.connection_pool.disconnect()

    def whole(self, value: bytes | None) -> int:
        """Return a counter's value, 0 if there is none; raises ShardError if it is not a number."""
        try:
            return int(value or 0)
        except ValueError:
            raise ShardError(
                f"{self}: somebody else wrote the counters of this run; start a new run (another --name)"
            ) from None

    def pipelined(self, items: Sequence[T], add: Callable[[Any, T], object]) -> list[Any]:
        """Return an answer per item, None for a key of another type."""

        def run() -> list[Any]:
            with self.client.pipeline(transaction=False) as pipe:
                for item in items:
                    add(pipe, item)
                # One key that somebody else wrote must not fail the answers of all others.
                answers = pipe.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception) and not is_wrong_type(answer):
                    raise answer
            return [None if is_wrong_type(answer) else answer for answer in answers]

        return self.call(run) if items else []

    def _parse_signature(self, encoded: bytes) -> Signature:
        try:
            return Signature.of_document(json.loads(encoded))
        # Of any bytes: 1e999 is an infinite float without an int, and brackets may be nested without end.
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise ShardError(
                f"{self}: the stored signature is unreadable: somebody else wrote {self.meta_key};"
                " start a new run (another --name)"
            ) from None
