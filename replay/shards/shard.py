"""One Redis server's part of the replay: segments, their log and the limiter's tickets, in plain commands.

A write is one MULTI. Every call survives a dropped connection: it is repeated with backoff for
`retry_seconds`. Repeating is harmless: segments carry their identity, and a ticket taken twice only leaves a
hole in the numbering.
"""

import json
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, TypeVar

import redis

from replay.errors import ShardError, SignatureMismatch, StaleOwner
from replay.segments.codec import signature_mismatch
from replay.shards.connection import Connection
from replay.shards.pipeline import Command, Request, ShardPipeline, pack
from replay.shards.records import (
    LOG_START,
    LogEntry,
    Owner,
    TicketBook,
    parse_entry,
    parse_owner,
    parse_ticket,
)
from replay.types import SegmentIdentity, Signature

__all__ = ["LOG_START", "Shard"]

T = TypeVar("T")
LIFE_SECONDS = 300
"""For so long a run counts as live after its owner's last sign of life, the `alive` key."""
NAMES_PER_COMMAND = 256
"""Keys or entries deleted by one command, so that none holds the server up for long."""


class TicketRequest(NamedTuple):
    """A ticket that was asked for."""

    request: Request
    identity: SegmentIdentity
    items: int
    attempt: int


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
        self.call, self.refusal = self._connection.call, self._connection.refusal
        self._prefix = f"apexpert:{{{run}:{index}}}:"
        self.log, self._meta = self._prefix + "log", self._prefix + "meta"
        self.reserved_key, self.allowed_key = self._prefix + "reserved", self._prefix + "allowed"
        self.outstanding_key, self.owner_key = self._prefix + "outstanding", self._prefix + "owner"
        self.alive_key, self._folder_key = self._prefix + "alive", self._prefix + "folder"
        self._own = threading.local()

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
        """How long a call is repeated; a change counts for a call that is under way, too."""
        return self._connection.retry_seconds

    @retry_seconds.setter
    def retry_seconds(self, seconds: float) -> None:
        self._connection.retry_seconds = seconds

    def segment_key(self, identity: SegmentIdentity) -> str:
        """The key of a segment's bytes."""
        return f"{self._prefix}seg:{identity}"

    def new_pipeline(self) -> ShardPipeline:
        """A line of one's own to this shard."""
        return ShardPipeline(self._connection)

    def ping(self) -> None:
        """Return once the server answers."""
        self.call(self._client.ping)

    # Writing

    def ask_ticket(self, identity: SegmentIdentity, items: int, *, attempt: int = 0) -> TicketRequest:
        """Ask for a ticket for `items`; `take_ticket` must follow before anything else is written.

        `attempt` grows with each other shard that is tried for the same segment: the highest one counts.
        """
        commands = (
            ("INCRBY", self.reserved_key, items),
            ("HSET", self.outstanding_key, str(identity), f"{items}:{attempt}:"),
            ("GET", self.allowed_key),
        )
        request = self._transaction(*commands)
        self._link.ask(request)
        return TicketRequest(request, identity, items, attempt)

    def take_ticket(self, asked: TicketRequest) -> tuple[int, bool]:
        """The ticket's end T (it covers (T - items, T] here), and whether any of that is allowed already."""
        end, _, allowed = self._executed(asked.request)
        covered = self.whole(allowed) > end - asked.items
        if not covered:
            # T is not known inside MULTI. With it the owner covers tickets and skips holes left by the dead.
            noted = f"{asked.items}:{asked.attempt}:{end}"
            self._answers(("HSET", self.outstanding_key, str(asked.identity), noted))
        return int(end), covered

    def reserve(self, identity: SegmentIdentity, items: int, *, attempt: int = 0) -> tuple[int, bool]:
        """`ask_ticket` and `take_ticket` in one."""
        return self.take_ticket(self.ask_ticket(identity, items, attempt=attempt))

    def allowed(self) -> int:
        """The end up to which the owner allows commits (0: no owner has been here)."""
        return self.whole(self.call(lambda: self._client.get(self.allowed_key)))

    def ticket_state(self, identity: SegmentIdentity) -> tuple[int, bool]:
        """`allowed`, and whether the ticket of `identity` is still in the book."""

        name = str(identity)
        allowed, held = self._answers(("GET", self.allowed_key), ("HEXISTS", self.outstanding_key, name))
        return self.whole(allowed), bool(held)

    def commit(
        self, identity: SegmentIdentity, data: bytes, num_items: int, num_steps: int, total: int = 0
    ) -> None:
        """Store the segment, log it and give its ticket back, in one MULTI.

        `total` counts the items of its incarnation up to and with this segment: by it a reader knows how much
        it has never seen. A repeated commit makes another log entry of the same identity, which the owner
        deletes.
        """
        fields = ("id", str(identity), "n", num_items, "s", num_steps, "b", len(data))
        commands = (
            # In this order: a server whose file was cut off in between runs the first part alone when it
            # starts for the second time. That leaves an entry without a segment, which is noticed.
            ("XADD", self.log, "*", *fields, *(("t", total) if total else ())),
            ("SET", self.segment_key(identity), data),
            ("HDEL", self.outstanding_key, str(identity)),
        )
        self._executed(self._transaction(*commands))

    def drop_outstanding(self, identities: Iterable[SegmentIdentity]) -> None:
        """Take tickets out of the book: their writers are dead or went elsewhere."""
        names = [str(identity) for identity in identities]
        if names:
            self.call(lambda: self._client.hdel(self.outstanding_key, *names))

    # Reading

    def read_log(self, after: str, count: int) -> list[LogEntry]:
        """Up to `count` log entries after the id `after`, oldest first; never blocks."""
        rows = self.call(lambda: self._client.xrange(self.log, min="(" + after, count=count))
        return [parse_entry(*row) for row in rows]

    def fetch(self, identities: Sequence[SegmentIdentity]) -> list[bytes | None]:
        """Whole segments, None for those that are gone; one pipeline."""
        return self._pipelined(identities, lambda pipe, identity: pipe.get(self.segment_key(identity)))

    def fetch_ranges(self, ranges: Sequence[tuple[SegmentIdentity, int, int]]) -> list[bytes]:
        """Bytes [start, end) of segments, b"" for those that are gone; one pipeline."""

        def add(pipe: Any, item: tuple[SegmentIdentity, int, int]) -> None:
            identity, start, end = item
            pipe.getrange(self.segment_key(identity), start, end - 1)

        return [data or b"" for data in self._pipelined(ranges, add)]

    def tickets(self) -> TicketBook:
        """The ticket book; what is in the log is not counted as pending."""

        def read() -> list[Any]:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.mget(self.reserved_key, self.allowed_key)
                pipe.hgetall(self.outstanding_key)
                return list(pipe.execute())

        (reserved, allowed), fields = self.call(read)
        tickets = [parse_ticket(name, value) for name, value in fields.items()]
        outstanding = tuple(ticket for ticket in tickets if ticket is not None)
        return TicketBook(self.whole(reserved), self.whole(allowed), outstanding)

    # The owner's side; what it does all the time goes over a ShardPipeline

    def set_allowed(self, end: int) -> None:
        """Allow the commit of tickets that begin before `end`."""
        self.call(lambda: self._client.set(self.allowed_key, end))

    def deletion(self, entries: Sequence[tuple[str, SegmentIdentity | None]]) -> Request:
        """Deletes log entries, and the segments named with them.

        Segments leave before their entries: cut short, it leaves entries without a segment (counted as
        missing), never segments that nobody knows. Just these, and no MULTI: a full Redis refuses it.
        """
        keys = [self.segment_key(identity) for _, identity in entries if identity is not None]
        log_ids = [log_id for log_id, _ in entries if log_id]
        unlinks = [("UNLINK", *part) for part in _parts(keys)]
        return pack(*unlinks, *[("XDEL", self.log, *part) for part in _parts(log_ids)])

    def unlink(self, identities: Iterable[SegmentIdentity]) -> None:
        """Delete segments, whatever the log says."""
        self._pipelined(list(identities), lambda pipe, identity: pipe.unlink(self.segment_key(identity)))

    def owner(self) -> Owner:
        """Who owns this shard."""
        return self.call(lambda: parse_owner(self._client.get(self.owner_key)))

    def take(self, owner: Owner) -> None:
        """Note who owns this shard from now on, and lives; raises StaleOwner when somebody later has it."""

        def note() -> bool:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.watch(self.owner_key)
                held = parse_owner(pipe.get(self.owner_key))
                if held != owner and held.epoch >= owner.epoch:
                    raise StaleOwner(f"{self} belongs to a later sampler: this one ends")
                pipe.multi()
                pipe.set(self.owner_key, str(owner))
                pipe.set(self.alive_key, str(owner), ex=LIFE_SECONDS)
                try:
                    pipe.execute()
                except redis.WatchError:
                    return False
                return True

        while not self.call(note):
            pass

    def check_meta(self, signature: Signature, *, writes: bool = False) -> None:
        """Compare with the signature of the data here, which the first caller notes.

        With `writes`, a smaller stack or n_step is noted as the data's: what follows serves no larger one.
        Raises SignatureMismatch.
        """
        encoded = json.dumps(asdict(signature))

        def note() -> bytes:
            self._client.set(self._meta, encoded, nx=True)
            return bytes(self._client.get(self._meta) or b"")

        stored = self._parse_signature(self.call(note))
        mismatch = signature_mismatch(stored, signature)
        if mismatch is not None:
            raise SignatureMismatch(f"{self}: {mismatch}")
        if writes and signature != stored:
            self.call(lambda: self._client.set(self._meta, encoded))

    # Whose run it is

    def is_used(self) -> bool:
        """Whether anything of a run of this name is here."""
        keys = (self.log, self._meta, self.reserved_key, self.owner_key, self._folder_key)
        return bool(self.call(lambda: self._client.exists(*keys)))

    def claim(self, folder_id: str) -> bool:
        """Note the folder that the run here belongs to; False, and nothing changes, when one is noted."""
        return bool(self.call(lambda: self._client.set(self._folder_key, folder_id, nx=True)))

    def unclaim(self) -> None:
        """Take the note of the folder away."""
        self.call(lambda: self._client.unlink(self._folder_key))

    def folder_id(self) -> str:
        """The id of the folder that the run here belongs to; empty when none is noted."""
        noted = self.call(lambda: self._client.get(self._folder_key))
        return (noted or b"").decode(errors="replace")

    # The server

    def memory(self) -> tuple[int, int]:
        """Bytes used and the server's `maxmemory` (0: no limit)."""
        answer = self.call(lambda: self._client.info("memory"))
        return int(answer["used_memory"]), int(answer.get("maxmemory", 0))

    def command_stats(self) -> dict[str, tuple[int, int]]:
        """Calls and microseconds of each command since the server started."""
        answer = self.call(lambda: self._client.info("commandstats"))
        return {
            name.removeprefix("cmdstat_"): (int(stats["calls"]), int(stats["usec"]))
            for name, stats in answer.items()
        }

    def info(self) -> dict[str, str | int]:
        """Address, server and its version, its id, log length and memory, for people and checks."""
        server = self.call(lambda: self._client.info("server"))
        used, limit = self.memory()
        return {
            "address": self.address,
            "server": str(server.get("server_name", "redis")),
            "version": str(server.get("valkey_version") or server.get("redis_version", "unknown")),
            "run_id": str(server.get("run_id", "")),
            "log_length": int(self.call(lambda: self._client.xlen(self.log))),
            "used_memory": used,
            "max_memory": limit,
        }

    def keep_one_line(self) -> None:
        """Close all idle connections but the lines for writing; a later call opens them again."""
        self._client.connection_pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._link.close()
        self._client.connection_pool.disconnect()

    def whole(self, value: bytes | None) -> int:
        """A counter's value, 0 for none; raises ShardError where it is no number."""
        try:
            return int(value or 0)
        except ValueError:
            raise ShardError(
                f"{self}: somebody else wrote the counters of this run; start a new run (another --name)"
            ) from None

    @property
    def _link(self) -> ShardPipeline:
        """This thread's line for writing."""
        if not hasattr(self._own, "link"):
            self._own.link = self.new_pipeline()
        link: ShardPipeline = self._own.link
        return link

    def _transaction(self, *commands: Command) -> Request:
        """All of them or none, in one round trip."""
        return pack(("MULTI",), *commands, ("EXEC",))

    def _executed(self, request: Request) -> list[Any]:
        """The answers to a transaction; raises ShardFull or ShardError for the first that is a refusal."""
        answers = self._link.answer(request)
        executed = answers[-1] if isinstance(answers[-1], list) else []
        for answer in (*answers, *executed):
            if isinstance(answer, redis.RedisError):
                raise self.refusal(answer)
        return executed

    def _answers(self, *commands: Command) -> list[Any]:
        """The answers to commands in one round trip; raises as `_executed` does."""
        answers = self._link.answer(pack(*commands))
        for answer in answers:
            if isinstance(answer, redis.RedisError):
                raise self.refusal(answer)
        return answers

    def _pipelined(self, items: Sequence[T], add: Callable[[Any, T], object]) -> list[Any]:
        """The answers, None for a key of another type: it must not hold up the others for ever."""

        def run() -> list[Any]:
            with self._client.pipeline(transaction=False) as pipe:
                for item in items:
                    add(pipe, item)
                return [_unless_wrong_type(answer) for answer in pipe.execute(raise_on_error=False)]

        return self.call(run) if items else []

    def _parse_signature(self, encoded: bytes) -> Signature:
        try:
            stored = json.loads(encoded)
            height, width = stored["frame_shape"]
            counts = (int(stored[field]) for field in ("stack", "n_step", "num_actions"))
            return Signature((int(height), int(width)), *counts)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise ShardError(
                f"{self}: the stored signature is unreadable: somebody else wrote {self._meta};"
                " start a new run (another --name)"
            ) from None


def _unless_wrong_type(answer: Any) -> Any:
    if not isinstance(answer, Exception):
        return answer
    if str(answer).startswith("WRONGTYPE"):
        return None
    raise answer


def _parts(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[start : start + NAMES_PER_COMMAND] for start in range(0, len(names), NAMES_PER_COMMAND)]
