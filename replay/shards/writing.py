"""What writers do on a shard: tickets and commits. A write is one MULTI.

Repeating is harmless: segments carry their identity, and a ticket taken twice only leaves a hole in the
numbering.
"""

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import redis

from replay.shards.pipeline import Command, Request, ShardPipeline, pack
from replay.types import SegmentIdentity

if TYPE_CHECKING:
    from replay.shards.shard import Shard


class TicketRequest(NamedTuple):
    """A ticket that was asked for."""

    request: Request
    identity: SegmentIdentity
    items: int
    attempt: int


class ShardWriting:
    """A shard for those who write; each thread has a connection of its own."""

    def __init__(self, shard: "Shard") -> None:
        self._shard = shard
        self._lines = threading.local()

    def ask_ticket(self, identity: SegmentIdentity, items: int, *, attempt: int = 0) -> TicketRequest:
        """Ask for a ticket for `items`; `take_ticket` must follow before anything else is written.

        `attempt` grows with each other shard that is tried for the same segment: the highest one counts.
        """
        commands = (
            ("INCRBY", self._shard.reserved_key, items),
            ("HSET", self._shard.outstanding_key, str(identity), f"{items}:{attempt}:"),
            ("GET", self._shard.allowed_key),
        )
        request = self._transaction(*commands)
        self._link.ask(request)
        return TicketRequest(request, identity, items, attempt)

    def take_ticket(self, asked: TicketRequest) -> tuple[int, bool]:
        """The ticket's end T (it covers (T - items, T] here), and whether any of that is allowed already."""
        end, _, allowed = self._executed(asked.request)
        covered = self._shard.whole(allowed) > end - asked.items
        if not covered:
            # T is not known inside MULTI. With it the owner covers tickets and skips holes left by the dead.
            noted = f"{asked.items}:{asked.attempt}:{end}"
            self._answers(("HSET", self._shard.outstanding_key, str(asked.identity), noted))
        return int(end), covered

    def reserve(self, identity: SegmentIdentity, items: int, *, attempt: int = 0) -> tuple[int, bool]:
        """`ask_ticket` and `take_ticket` in one."""
        return self.take_ticket(self.ask_ticket(identity, items, attempt=attempt))

    def ticket_state(self, identity: SegmentIdentity) -> tuple[int, bool]:
        """`allowed`, and whether the ticket of `identity` is still in the book."""

        name = str(identity)
        allowed, held = self._answers(
            ("GET", self._shard.allowed_key), ("HEXISTS", self._shard.outstanding_key, name)
        )
        return self._shard.whole(allowed), bool(held)

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
            ("XADD", self._shard.log, "*", *fields, *(("t", total) if total else ())),
            ("SET", self._shard.segment_key(identity), data),
            ("HDEL", self._shard.outstanding_key, str(identity)),
        )
        self._executed(self._transaction(*commands))

    def drop_outstanding(self, identities: Iterable[SegmentIdentity]) -> None:
        """Take tickets out of the book: their writers are dead or went elsewhere."""
        names = [str(identity) for identity in identities]
        if names:
            self._shard.call(lambda: self._shard.client.hdel(self._shard.outstanding_key, *names))

    def keep_one_line(self) -> None:
        """Close all idle connections but the lines for writing; a later call opens them again."""
        self._shard.client.connection_pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        """Close this thread's connection; a later call opens a new one."""
        self._link.close()

    @property
    def _link(self) -> ShardPipeline:
        """This thread's line for writing."""
        if not hasattr(self._lines, "link"):
            self._lines.link = self._shard.new_pipeline()
        link: ShardPipeline = self._lines.link
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
                raise self._shard.refusal(answer)
        return executed

    def _answers(self, *commands: Command) -> list[Any]:
        """The answers to commands in one round trip; raises as `_executed` does."""
        answers = self._link.answer(pack(*commands))
        for answer in answers:
            if isinstance(answer, redis.RedisError):
                raise self._shard.refusal(answer)
        return answers
