"""One Redis server's part of the replay: segments, their log and the limiter's tickets, in plain commands.

A write is one MULTI. Every call survives a dropped connection: it is repeated with backoff until `retry_seconds` are over.
Repeating is harmless, because segments carry their identity and a ticket taken twice only leaves a hole in the numbering.
"""

import json
import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import AuthenticationError, AuthorizationError, ReadOnlyError, RedisError
from redis.retry import Retry

from replay.errors import ShardError, ShardFull, ShardUnavailable, SignatureMismatch
from replay.types import SegmentIdentity, Signature

T = TypeVar("T")

LOG_START = "0-0"
"""The cursor before every entry of a log."""
UNLINK_CHUNK = 256
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.02, 1.0


class LogEntry(NamedTuple):
    """One line of a shard's log. `identity` is None, and the counts 0, where the entry is not one of ours."""

    log_id: str
    identity: SegmentIdentity | None
    num_items: int
    num_steps: int
    num_bytes: int


class Ticket(NamedTuple):
    """A reservation of `items` that ends at `end` in the shard's numbering; None while its writer has not noted it."""

    identity: SegmentIdentity
    items: int
    end: int | None


class TicketBook(NamedTuple):
    """One shard's tickets at one moment; `pending` items are in the log after the reader's cursor."""

    reserved: int
    allowed: int
    outstanding: tuple[Ticket, ...]
    pending: int


class Shard:
    """One Redis server holding part of a run's replay (hash tag `{run:index}`: one slot of a Redis Cluster).

    Raises ShardUnavailable when the server cannot be reached for `retry_seconds`, ShardFull when it refuses a write for
    lack of memory or disk, and ShardError for anything else, each in one line without credentials.
    """

    def __init__(self, url: str, *, run: str, index: int, retry_seconds: float = 30.0) -> None:
        if not re.fullmatch(r"[\w.:+-]+", run):
            raise ShardError(f"run name {run!r}: letters, digits and . : + - _ only")
        self.index = index
        self.retry_seconds = retry_seconds
        self.retries = 0
        """Attempts that failed and were repeated, since the start."""
        self._client, self.address = _connect(url, index)
        self._prefix = f"apexpert:{{{run}:{index}}}:"
        self._log = self._prefix + "log"
        self._reserved, self._allowed = self._prefix + "reserved", self._prefix + "allowed"
        self._outstanding, self._meta = self._prefix + "outstanding", self._prefix + "meta"

    def __repr__(self) -> str:
        return f"Shard({self.index}, {self.address})"

    # Writing

    def reserve(self, identity: SegmentIdentity, items: int) -> int:
        """Take a ticket for `items` and return its end T: it covers (T - items, T] of this shard's numbering."""

        def take() -> int:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.incrby(self._reserved, items)
                pipe.hset(self._outstanding, str(identity), items)
                end = int(pipe.execute()[0])
            # Noted a moment later, since T is not known inside MULTI: the owner then covers tickets, not holes.
            self._client.hset(self._outstanding, str(identity), f"{items}:{end}")
            return end

        return self._call(take)

    def allowed(self) -> int:
        """The end up to which the owner allows commits (0: no owner has been here)."""
        return self._call(lambda: int(self._client.get(self._allowed) or 0))

    def ticket_state(self, identity: SegmentIdentity) -> tuple[int, bool]:
        """`allowed` and whether the ticket of `identity` is still in the book (it leaves with a wiped server)."""

        def read() -> tuple[int, bool]:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.get(self._allowed)
                pipe.hexists(self._outstanding, str(identity))
                allowed, held = pipe.execute()
            return int(allowed or 0), bool(held)

        return self._call(read)

    def commit(self, identity: SegmentIdentity, data: bytes, num_items: int, num_steps: int) -> None:
        """Store the segment, log it and give its ticket back, in one MULTI; repeating it makes a duplicate log entry."""
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
        rows = self._call(lambda: self._client.xrange(self._log, min="(" + after, count=count))
        return [_entry(log_id, fields) for log_id, fields in rows]

    def fetch(self, identities: Sequence[SegmentIdentity]) -> list[bytes | None]:
        """Whole segments, None for those that are gone; one pipeline."""
        return self._pipelined(identities, lambda pipe, identity: pipe.get(self._segment(identity)))

    def fetch_ranges(self, ranges: Sequence[tuple[SegmentIdentity, int, int]]) -> list[bytes]:
        """Bytes [start, end) of segments, b"" for those that are gone; one pipeline."""
        return self._pipelined(
            ranges, lambda pipe, item: pipe.getrange(self._segment(item[0]), item[1], item[2] - 1)
        )

    # The owner's side

    def evict(self, log_ids_upto: str, identities: Iterable[SegmentIdentity] = ()) -> None:
        """Delete all log entries up to and including `log_ids_upto`, with their segments, and `identities` as well.

        Segments leave before their entries: if this is cut short, entries without a segment remain (counted as missing
        and trimmed next time), never segments that nobody knows. Plain commands, since a full server refuses MULTI.
        """
        rows = self._call(lambda: self._client.xrange(self._log, max=log_ids_upto))
        leaving = {entry.identity for entry in (_entry(*row) for row in rows) if entry.identity is not None}
        self.unlink(leaving.union(identities))
        milliseconds, _, sequence = log_ids_upto.partition("-")
        first_kept = f"{milliseconds}-{int(sequence or 0) + 1}"
        self._call(lambda: self._client.xtrim(self._log, minid=first_kept, approximate=False))

    def unlink(self, identities: Iterable[SegmentIdentity]) -> None:
        """Delete segments, whatever the log says."""
        keys = [self._segment(identity) for identity in identities]
        for start in range(0, len(keys), UNLINK_CHUNK):
            chunk = keys[start : start + UNLINK_CHUNK]
            self._call(lambda chunk=chunk: self._client.unlink(*chunk))  # type: ignore[misc]

    def delete_copy(self, entry: LogEntry) -> None:
        """Delete a duplicate's log entry, and its segment unless an earlier entry of this log is its original."""
        assert entry.identity is not None
        earlier = self._call(lambda: self._client.xrange(self._log, max="(" + entry.log_id))
        self._call(lambda: self._client.xdel(self._log, entry.log_id))
        if all(_entry(*row).identity != entry.identity for row in earlier):
            self.unlink([entry.identity])

    def tickets(self, cursor: str = "+", pending_limit: int = 256) -> TicketBook:
        """The ticket book and the items logged after `cursor`, at one moment ("+": count none of them).

        `pending` is a huge number when more than `pending_limit` entries wait, since then the owner has to read first.
        """

        def read() -> list[Any]:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.get(self._reserved)
                pipe.get(self._allowed)
                pipe.hgetall(self._outstanding)
                if cursor != "+":
                    pipe.xrange(self._log, min="(" + cursor, count=pending_limit)
                return list(pipe.execute())

        reserved, allowed, outstanding, *rows = self._call(read)
        entries = [_entry(*row) for row in rows[0]] if rows else []
        pending = sum(entry.num_items for entry in entries) if len(entries) < pending_limit else 2**62
        tickets = (_ticket(name, value) for name, value in outstanding.items())
        return TicketBook(int(reserved or 0), int(allowed or 0), tuple(t for t in tickets if t), pending)

    def set_allowed(self, end: int) -> None:
        """Allow commits of tickets that begin before `end`."""
        self._call(lambda: self._client.set(self._allowed, end))

    def drop_outstanding(self, identities: Iterable[SegmentIdentity]) -> None:
        """Take tickets out of the book: their writers are dead or went elsewhere."""
        names = [str(identity) for identity in identities]
        if names:
            self._call(lambda: self._client.hdel(self._outstanding, *names))

    def check_meta(self, signature: Signature, *, writes: bool = False) -> None:
        """Compare with the signature of the data here, which the first caller notes; raises SignatureMismatch.

        With `writes`, a smaller stack or n_step becomes the data's (what is written from now on serves no more).
        """
        mine = asdict(signature) | {"frame_shape": list(signature.frame_shape)}
        encoded = json.dumps(mine)

        def note() -> bytes:
            self._client.set(self._meta, encoded, nx=True)
            return bytes(self._client.get(self._meta))

        theirs = json.loads(self._call(note))
        for field in ("frame_shape", "num_actions"):
            if mine[field] != theirs[field]:
                raise SignatureMismatch(
                    f"{self}: {field} is {theirs[field]} in the stored data, not {mine[field]}"
                )
        for field in ("stack", "n_step"):
            if mine[field] > theirs[field]:
                message = f"{field} {mine[field]} cannot be made from stored data with {theirs[field]}"
                raise SignatureMismatch(f"{self}: {message}; it can only be lowered")
        if writes and mine != theirs:
            self._call(lambda: self._client.set(self._meta, encoded))

    # The server

    def memory(self) -> tuple[int, int]:
        """Bytes used and the server's `maxmemory` (0: no limit)."""
        answer = self._call(lambda: self._client.info("memory"))
        return int(answer["used_memory"]), int(answer.get("maxmemory", 0))

    def info(self) -> dict[str, str | int]:
        """Address, server version, log length and memory, for people."""
        server = self._call(lambda: self._client.info("server"))
        version = server.get("valkey_version") or server.get("redis_version", "unknown")
        used, limit = self.memory()
        length = int(self._call(lambda: self._client.xlen(self._log)))
        return {
            "address": self.address,
            "server": f"{server.get('server_name', 'redis')} {version}",
            "run_id": str(server.get("run_id", "")),
            "log_length": length,
            "used_memory": used,
            "max_memory": limit,
        }

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._client.close()

    def _segment(self, identity: SegmentIdentity) -> str:
        return f"{self._prefix}seg:{identity}"

    def _pipelined(self, items: Sequence[T], add: Callable[[Any, T], object]) -> list[Any]:
        def read() -> list[Any]:
            with self._client.pipeline(transaction=False) as pipe:
                for item in items:
                    add(pipe, item)
                return list(pipe.execute())

        return self._call(read) if items else []

    def _call(self, command: Callable[[], T]) -> T:
        """Run `command`, again after each lost connection, until the budget is spent."""
        deadline = time.monotonic() + self.retry_seconds
        backoff = FIRST_BACKOFF_S
        while True:
            try:
                return command()
            except (AuthenticationError, AuthorizationError) as error:
                raise ShardError(f"{self} refuses the password or user: {_line(error)}") from None
            except (redis.ConnectionError, redis.TimeoutError, ReadOnlyError) as error:
                if time.monotonic() + backoff > deadline:
                    message = f"{self} cannot be reached for {self.retry_seconds:g} s: {_line(error)}"
                    raise ShardUnavailable(message) from None
            except RedisError as error:
                raise self._refusal(error) from None
            self.retries += 1
            time.sleep(backoff * random.uniform(0.5, 1.0))
            backoff = min(2 * backoff, LONGEST_BACKOFF_S)

    def _refusal(self, error: RedisError) -> ShardError:
        """A full memory says OOM, a full disk MISCONF, also inside the text of an aborted MULTI."""
        text = _line(error)
        full = "OOM " in text or "MISCONF" in text
        return ShardFull(f"{self} is full: {text}") if full else ShardError(f"{self}: {text}")


def connect_shards(urls: Sequence[str], *, run: str, retry_seconds: float = 30.0) -> list[Shard]:
    """One Shard a URL (redis://, rediss://, unix://); raises ShardError when two name the same server and database."""
    shards = [Shard(url, run=run, index=i, retry_seconds=retry_seconds) for i, url in enumerate(urls)]
    homes: dict[str, Shard] = {}
    for shard in shards:
        # The server's own id sees through host names that mean the same; some managed servers do not tell it.
        for home in {shard.address, _server_id(shard) or shard.address}:
            other = homes.setdefault(home, shard)
            if other is not shard:
                raise ShardError(
                    f"shards {other.index} and {shard.index} are the same server: {shard.address}"
                )
    return shards


def _server_id(shard: Shard) -> str | None:
    try:
        run_id = shard.info()["run_id"]
    except ShardUnavailable:
        raise
    except ShardError:
        return None
    return f"{run_id} {shard.address.rpartition('/')[2]}" if run_id else None


def _connect(url: str, index: int) -> tuple[Any, str]:
    """A client of our own settings and the address without credentials (it ends in /db)."""
    try:
        options = parse_url(url)
    except ValueError:
        raise ShardError(f"shard {index}: not a redis://, rediss:// or unix:// URL") from None
    # Retries are ours, and bytes are bytes, whatever the URL asks for.
    own = {"retry": Retry(NoBackoff(), 0), "decode_responses": False}
    timeouts = {"socket_timeout": 15.0, "socket_connect_timeout": 5.0}
    try:
        client = redis.Redis(connection_pool=redis.ConnectionPool.from_url(url, **timeouts))
        client.connection_pool.connection_kwargs.update(own)
    except (ValueError, TypeError, RedisError) as error:
        raise ShardError(f"shard {index}: the URL cannot be used: {_line(error)}") from None
    scheme = url.partition(":")[0]
    if scheme == "unix":
        place = quote(options.get("path", ""))
    else:
        place = f"{options.get('host', 'localhost')}:{options.get('port', 6379)}".lower()
    return client, f"{scheme}://{place}/{int(options.get('db', 0))}"


def _entry(log_id: bytes, fields: dict[bytes, bytes] | None) -> LogEntry:
    """A log row as an entry; anything that is not ours becomes one without an identity."""
    name = log_id.decode()
    try:
        assert fields is not None
        identity = _identity(fields[b"id"])
        counts = [int(fields[key]) for key in (b"n", b"s", b"b")]
        if not (0 < counts[0] <= counts[1] < 2**31 and counts[2] > 0):
            raise ValueError("counts")
    except (AssertionError, KeyError, ValueError):
        return LogEntry(name, None, 0, 0, 0)
    return LogEntry(name, identity, *counts)


def _ticket(name: bytes, value: bytes) -> Ticket | None:
    items, _, end = value.partition(b":")
    try:
        return Ticket(_identity(name), max(int(items), 1), int(end) if end else None)
    except ValueError:
        return None


def _identity(name: bytes) -> SegmentIdentity:
    identity = SegmentIdentity.parse(name.decode("ascii"))
    if min(identity) < 0 or str(identity).encode() != name:
        raise ValueError("identity")
    return identity


def _line(error: BaseException) -> str:
    """The error's text as one line; the client's own messages name addresses, never passwords."""
    return " ".join(str(error).split())[:200] or type(error).__name__
