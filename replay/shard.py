"""One Redis server's part of the replay: segments, their log and the limiter's tickets, in plain commands.

A write is one MULTI. Every call survives a dropped connection: it is repeated with backoff for
`retry_seconds`. Repeating is harmless: segments carry their identity, and a ticket taken twice only leaves a
hole in the numbering.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from replay.connection import Connection
from replay.errors import ShardError, ShardUnavailable, SignatureMismatch
from replay.records import LogEntry, TicketBook, parse_entry, parse_ticket
from replay.segment import signature_mismatch
from replay.types import SegmentIdentity, Signature

T = TypeVar("T")

LOG_START = "0-0"
"""The cursor before every entry of a log."""
UNLINK_CHUNK = 256
PENDING_LIMIT = 256
UNKNOWN_PENDING = 2**62


class Shard:
    """One Redis server holding part of a run's replay (hash tag `{run:index}`: one slot of a Redis Cluster).

    Raises ShardUnavailable when the server cannot be reached for `retry_seconds`, ShardFull when it refuses a
    write for lack of memory or disk, and ShardError for anything else, each in one line without credentials.
    """

    def __init__(self, url: str, *, run: str, index: int, retry_seconds: float = 30.0) -> None:
        if not re.fullmatch(r"[\w.:+-]+", run):
            raise ShardError(f"run name {run!r}: letters, digits and . : + - _ only")
        self.index = index
        self._connection = Connection(url, name=f"shard {index}", retry_seconds=retry_seconds)
        self._client = self._connection.client
        self._call = self._connection.call
        self._prefix = f"apexpert:{{{run}:{index}}}:"
        self._log, self._meta = self._prefix + "log", self._prefix + "meta"
        self._reserved, self._allowed = self._prefix + "reserved", self._prefix + "allowed"
        self._outstanding = self._prefix + "outstanding"

    def __repr__(self) -> str:
        return f"Shard({self.index}, {self.address})"

    @property
    def address(self) -> str:
        """The URL without user and password, ending in the database's number."""
        return self._connection.address

    @property
    def retries(self) -> int:
        """Attempts that failed and were repeated, since the start."""
        return self._connection.retries

    @property
    def retry_seconds(self) -> float:
        """How long a call is repeated; a caller may change it at any time."""
        return self._connection.retry_seconds

    @retry_seconds.setter
    def retry_seconds(self, seconds: float) -> None:
        self._connection.retry_seconds = seconds

    # Writing

    def reserve(self, identity: SegmentIdentity, items: int, *, attempt: int = 0) -> int:
        """Take a ticket for `items`; the answer T is its end: it covers (T - items, T] in this shard.

        `attempt` grows with each other shard that is tried for the same segment: the highest one counts.
        """

        def take() -> int:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.incrby(self._reserved, items)
                pipe.hset(self._outstanding, str(identity), f"{items}:{attempt}:")
                end = int(pipe.execute()[0])
            # T is not known inside MULTI. With it the owner covers tickets and skips holes left by the dead.
            self._client.hset(self._outstanding, str(identity), f"{items}:{attempt}:{end}")
            return end

        return self._call(take)

    def allowed(self) -> int:
        """The end up to which the owner allows commits (0: no owner has been here)."""
        return self._call(lambda: int(self._client.get(self._allowed) or 0))

    def ticket_state(self, identity: SegmentIdentity) -> tuple[int, bool]:
        """`allowed`, and whether the ticket of `identity` is still in the book."""

        def read() -> tuple[int, bool]:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.get(self._allowed)
                pipe.hexists(self._outstanding, str(identity))
                allowed, held = pipe.execute()
            return int(allowed or 0), bool(held)

        return self._call(read)

    def commit(self, identity: SegmentIdentity, data: bytes, num_items: int, num_steps: int) -> None:
        """Store the segment, log it and give its ticket back, in one MULTI.

        A repeated commit makes another log entry of the same identity, which the reader deletes.
        """
        fields = {"id": str(identity), "n": num_items, "s": num_steps, "b": len(data)}

        def write() -> None:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.set(self._segment(identity), data)
                pipe.xadd(self._log, fields)
                pipe.hdel(self._outstanding, str(identity))
                pipe.execute()

        self._call(write)

    # Reading

    def read_log(self, after: str, count: int) -> list[LogEntry]:
        """Up to `count` log entries after the id `after`, oldest first; never blocks."""
        return self._entries(min="(" + after, count=count)

    def fetch(self, identities: Sequence[SegmentIdentity]) -> list[bytes | None]:
        """Whole segments, None for those that are gone; one pipeline."""
        return self._pipelined(identities, lambda pipe, identity: pipe.get(self._segment(identity)))

    def fetch_ranges(self, ranges: Sequence[tuple[SegmentIdentity, int, int]]) -> list[bytes]:
        """Bytes [start, end) of segments, b"" for those that are gone; one pipeline."""

        def add(pipe: Any, item: tuple[SegmentIdentity, int, int]) -> None:
            identity, start, end = item
            pipe.getrange(self._segment(identity), start, end - 1)

        return self._pipelined(ranges, add)

    # The owner's side

    def evict(self, log_ids_upto: str, identities: Iterable[SegmentIdentity] = ()) -> None:
        """Delete the log up to and including `log_ids_upto` with its segments, and those of `identities`.

        Segments leave before their entries: cut short, it leaves entries without a segment (counted as
        missing and trimmed next time), never segments that nobody knows. No MULTI: a full server refuses it.
        """
        leaving = {entry.identity for entry in self._entries(max=log_ids_upto) if entry.identity is not None}
        self.unlink(leaving.union(identities))
        milliseconds, _, sequence = log_ids_upto.partition("-")
        first_kept = f"{milliseconds}-{int(sequence or 0) + 1}"
        self._call(lambda: self._client.xtrim(self._log, minid=first_kept, approximate=False))

    def unlink(self, identities: Iterable[SegmentIdentity]) -> None:
        """Delete segments, whatever the log says."""
        keys = [self._segment(identity) for identity in identities]
        chunks = [keys[start : start + UNLINK_CHUNK] for start in range(0, len(keys), UNLINK_CHUNK)]
        self._pipelined(chunks, lambda pipe, chunk: pipe.unlink(*chunk))

    def delete_copy(self, entry: LogEntry) -> None:
        """Delete a duplicate's log entry, and its segment unless an earlier entry here is its original."""
        assert entry.identity is not None
        earlier = {other.identity for other in self._entries(max="(" + entry.log_id)}
        if entry.identity not in earlier:
            self.unlink([entry.identity])
        self._call(lambda: self._client.xdel(self._log, entry.log_id))

    def tickets(self, cursor: str | None = None) -> TicketBook:
        """The ticket book, with the items that are logged after `cursor` as `pending` (None: not counted).

        PENDING_LIMIT or more entries there count as UNKNOWN_PENDING items: the owner has to read first. No
        MULTI, which a full server refuses: the order of the reads makes sure that what happens between them
        is counted twice for a moment rather than not at all.
        """

        def read() -> list[Any]:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.get(self._reserved)
                pipe.get(self._allowed)
                pipe.hgetall(self._outstanding)
                if cursor is not None:
                    pipe.xrange(self._log, min="(" + cursor, count=PENDING_LIMIT)
                return list(pipe.execute())

        reserved, allowed, fields, *rows = self._call(read)
        entries = [parse_entry(*row) for row in rows[0]] if rows else []
        pending = sum(entry.num_items for entry in entries)
        tickets = [parse_ticket(name, value) for name, value in fields.items()]
        return TicketBook(
            reserved=int(reserved or 0),
            allowed=int(allowed or 0),
            outstanding=tuple(ticket for ticket in tickets if ticket is not None),
            pending=pending if len(entries) < PENDING_LIMIT else UNKNOWN_PENDING,
        )

    def set_allowed(self, end: int) -> None:
        """Allow the commit of tickets that begin before `end`."""
        self._call(lambda: self._client.set(self._allowed, end))

    def drop_outstanding(self, identities: Iterable[SegmentIdentity]) -> None:
        """Take tickets out of the book: their writers are dead or went elsewhere."""
        names = [str(identity) for identity in identities]
        if names:
            self._call(lambda: self._client.hdel(self._outstanding, *names))

    def check_meta(self, signature: Signature, *, writes: bool = False) -> None:
        """Compare with the signature of the data here, which the first caller notes.

        With `writes`, a smaller stack or n_step is noted as the data's: what follows serves no larger one.
        Raises SignatureMismatch.
        """
        encoded = json.dumps(asdict(signature))

        def note() -> bytes:
            self._client.set(self._meta, encoded, nx=True)
            return bytes(self._client.get(self._meta) or b"")

        stored = self._parse_signature(self._call(note))
        mismatch = signature_mismatch(stored, signature)
        if mismatch is not None:
            raise SignatureMismatch(f"{self}: {mismatch}")
        if writes and signature != stored:
            self._call(lambda: self._client.set(self._meta, encoded))

    # The server

    def memory(self) -> tuple[int, int]:
        """Bytes used and the server's `maxmemory` (0: no limit)."""
        answer = self._call(lambda: self._client.info("memory"))
        return int(answer["used_memory"]), int(answer.get("maxmemory", 0))

    def info(self) -> dict[str, str | int]:
        """Address, server and its version, its id, log length and memory, for people and checks."""
        server = self._call(lambda: self._client.info("server"))
        used, limit = self.memory()
        return {
            "address": self.address,
            "server": str(server.get("server_name", "redis")),
            "version": str(server.get("valkey_version") or server.get("redis_version", "unknown")),
            "run_id": str(server.get("run_id", "")),
            "log_length": int(self._call(lambda: self._client.xlen(self._log))),
            "used_memory": used,
            "max_memory": limit,
        }

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._client.close()

    def _segment(self, identity: SegmentIdentity) -> str:
        return f"{self._prefix}seg:{identity}"

    def _entries(self, **bounds: Any) -> list[LogEntry]:
        return [parse_entry(*row) for row in self._call(lambda: self._client.xrange(self._log, **bounds))]

    def _pipelined(self, items: Sequence[T], add: Callable[[Any, T], object]) -> list[Any]:
        def run() -> list[Any]:
            with self._client.pipeline(transaction=False) as pipe:
                for item in items:
                    add(pipe, item)
                return list(pipe.execute())

        return self._call(run) if items else []

    def _parse_signature(self, encoded: bytes) -> Signature:
        try:
            stored = json.loads(encoded)
            height, width = stored["frame_shape"]
            counts = (int(stored[field]) for field in ("stack", "n_step", "num_actions"))
            return Signature((int(height), int(width)), *counts)
        except (ValueError, TypeError, KeyError):
            raise ShardError(f"{self}: the stored signature is unreadable") from None


def connect_shards(urls: Sequence[str], *, run: str, retry_seconds: float = 30.0) -> list[Shard]:
    """One Shard a URL; raises ShardError when two of them name the same server and database."""
    shards = [Shard(url, run=run, index=index, retry_seconds=retry_seconds) for index, url in enumerate(urls)]
    homes: dict[str, Shard] = {}
    for shard in shards:
        # The server's own id sees through different names of one host; some managed servers do not tell it.
        for home in {shard.address, _server_id(shard)}:
            other = homes.setdefault(home, shard)
            if other is not shard:
                both = f"{other.address} and {shard.address}"
                raise ShardError(f"--replay.urls: {both} are the same server and database")
    return shards


def _server_id(shard: Shard) -> str:
    try:
        run_id = shard.info()["run_id"]
    except ShardUnavailable:
        raise
    except ShardError:
        return shard.address
    return f"{run_id}/{shard.address.rpartition('/')[2]}" if run_id else shard.address
