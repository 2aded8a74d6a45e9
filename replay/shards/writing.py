"""Commands of writers on a shard: take tickets and commit segments. A write is one MULTI.

Repeating a write is harmless: segments carry their identity, and a ticket taken twice only leaves a
hole in the numbering.
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
    """A request for a ticket, not answered yet."""

    request: Request
    identity: SegmentIdentity
    items: int
    attempt: int


class ShardWriting:
    """A shard as seen by its writers; each thread has its own connection."""

    def __init__(self, shard: "Shard") -> None:
        self._shard = shard
        self._lines = threading.local()

    def ask_ticket(self, identity: SegmentIdentity, items: int, *, attempt: int = 0) -> TicketRequest:
        """Ask for a ticket for `items`; `take_ticket` must follow before anything else is written.

        `attempt` grows with each further shard that is tried for the same segment: the highest
        counts.
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
        """Return the ticket's end T (it covers (T - items, T] here), and whether any of it is allowed yet."""
        end, _, allowed = self._executed(asked.request)
        covered = self._shard.whole(allowed) > end - asked.items
        if not covered:
            # T is not known inside MULTI. Noting it lets the owner cover tickets and skip holes
            # left by the dead.
            noted = f"{asked.items}:{asked.attempt}:{end}"
            self._answers(("HSET", self._shard.outstanding_key, str(asked.identity), noted))
        return int(end), covered

    def ticket_state(self, identity: SegmentIdentity) -> tuple[int, bool]:
        """Return `allowed`, and whether the ticket of `identity` is still in the book."""

        name = str(identity)
        allowed, held = self._answers(
            ("GET", self._shard.allowed_key), ("HEXISTS", self._shard.outstanding_key, name)
        )
        return self._shard.whole(allowed), bool(held)

    def commit(
        self, identity: SegmentIdentity, data: bytes, num_items: int, num_steps: int, total: int = 0
    ) -> None:
        """Store the segment, log it and give its ticket back, in one MULTI.

        `total` counts the items of its incarnation up to and including this segment; from it a
        reader knows how many items it has never seen. A repeated commit adds another log entry of
        the same identity, which the owner deletes.
        """
        fields = ("id", str(identity), "n", num_items, "s", num_steps, "b", len(data))
        commands = (
            # In this order: a server whose file was cut off inside the MULTI runs its first
            # commands alone at its second start (decision 0010). That leaves an entry without a
            # segment, which is noticed.
            ("XADD", self._shard.log, "*", *fields, *(("t", total) if total else ())),
            ("SET", self._shard.segment_key(identity), data),
            ("HDEL", self._shard.outstanding_key, str(identity)),
        )
        self._executed(self._transaction(*commands))

    def drop_outstanding(self, identities: Iterable[SegmentIdentity]) -> None:
        """Remove tickets from the book: their writers are dead or wrote to another shard."""
        names = [str(identity) for identity in identities]
        if names:
            self._shard.call(lambda: self._shard.client.hdel(self._shard.outstanding_key, *names))

    def keep_one_line(self) -> None:
        """Close all idle connections but those for writing; a later call opens them again."""
        self._shard.client.connection_pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        """Close this thread's connection; a later call opens a new one."""
        self._link.close()

    @property
    def _link(self) -> ShardPipeline:
        """This thread's connection for writing."""
        if not hasattr(self._lines, "link"):
            self._lines.link = self._shard.new_pipeline()
        link: ShardPipeline = self._lines.link
        return link

    def _transaction(self, *commands: Command) -> Request:
        """Pack commands that run all or none, in one round trip."""
        return pack(("MULTI",), *commands, ("EXEC",))

    def _executed(self, request: Request) -> list[Any]:
        """Return the answers to a transaction; raises ShardFull or ShardError for the first refusal."""
        answers = self._link.answer(request)
        executed = answers[-1] if isinstance(answers[-1], list) else []
        for answer in (*answers, *executed):
            if isinstance(answer, redis.RedisError):
                raise self._shard.refusal(answer)
        return executed

    def _answers(self, *commands: Command) -> list[Any]:
        """Return the answers to commands in one round trip; raises as `_executed` does."""
        answers = self._link.answer(pack(*commands))
        for answer in answers:
            if isinstance(answer, redis.RedisError):
                raise self._shard.refusal(answer)
        return answers
