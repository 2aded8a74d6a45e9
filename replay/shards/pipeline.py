"""A connection to one shard on which requests are sent before earlier ones are answered.

With it, a sampler asks all shards at once and waits only for the slowest, and a writer encodes a
segment while its ticket is on the way. A request whose answer is not needed now (a new allowance,
deletions) is sent, and its answer is read with the next one.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import redis
from hiredis import pack_command
from redis.exceptions import ReadOnlyError, ResponseError

from replay.shards.connection import Connection

Outcome = Callable[[Sequence[Any] | None], None]
"""Receives the answers to a request, or None if the connection broke before they were read."""


class Request(NamedTuple):
    """Packed commands, and the number of answers that they have."""

    packed: bytes
    answers: int


Command = Sequence[str | int | bytes]
"""A command's name and its arguments."""


def pack(*commands: Command) -> Request:
    """Pack commands into one request."""
    # The stub only types commands of one argument.
    packed = [pack_command(tuple(command)) for command in commands]  # type: ignore[arg-type]
    return Request(b"".join(packed), len(commands))


def is_wrong_type(answer: object) -> bool:
    """Whether a key holds something that is not ours to read: it must not block others forever."""
    return isinstance(answer, ResponseError) and str(answer).startswith("WRONGTYPE")


class ShardPipeline:
    """One connection to a shard, opened when needed and reopened after it breaks.

    A refusal by the server is returned as an answer (an exception object), because other answers
    follow it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.openings = 0
        """Number of times the connection was opened: each time, the server may be another than before."""
        self._line = connection.new_line()
        self._is_open = False
        self._asked = False
        self._owed: deque[tuple[int, Outcome]] = deque()

    @property
    def is_open(self) -> bool:
        """Whether the next request goes over the same connection as the last."""
        return self._is_open

    def ask(self, request: Request) -> None:
        """Send a request. `answer` must follow; it reports a connection that breaks here."""
        if self._asked:  # and never answered: answers still to come belong to no request
            self._break()
        # Whatever went wrong, `answer` sends the request again and reports the error.
        with suppress(redis.RedisError, OSError):
            self._send(request)
            self._asked = True

    def answer(self, request: Request) -> list[Any]:
        """Return the answers to what `ask` sent; while there are none, resend it for `retry_seconds`.

        Raises ShardUnavailable, or ShardError if the server refuses the user.
        """

        def attempt() -> list[Any]:
            asked, self._asked = self._asked, False
            if not asked:
                self._send(request)
            return self._read(request.answers)

        return self._connection.call(attempt)

    def tell(self, request: Request, outcome: Outcome) -> None:
        """Send a request whose answers are read later, before those of the next `answer`."""
        try:
            self._send(request)
        except (redis.RedisError, OSError):
            outcome(None)
        else:
            self._owed.append((request.answers, outcome))

    def settle(self) -> None:
        """Read all answers that are still owed; raises as `answer` does."""
        if self._owed:
            nothing = Request(b"", 0)
            self.ask(nothing)
            self.answer(nothing)

    def close(self) -> None:
        """Close the connection; a later request opens it again."""
        self._break()

    def _send(self, request: Request) -> None:
        try:
            if not self._is_open:
                self._line.connect()
                self._is_open = True
                self.openings += 1
            if request.packed:
                # A health check would read an answer that is owed as the one to its PING.
                self._line.send_packed_command([request.packed], check_health=False)
        except BaseException:
            self._break()
            raise

    def _read(self, count: int) -> list[Any]:
        try:
            while self._owed:
                # Kept in `_owed` until all are read: if the connection breaks, its outcome is None.
                answers = [self._next() for _ in range(self._owed[0][0])]
                self._owed.popleft()[1](answers)
            return [self._next() for _ in range(count)]
        except BaseException:
            # Answers still to come on this connection would be taken for those of the next request.
            self._break()
            raise

    def _next(self) -> Any:
        try:
            return self._line.read_response()
        except ReadOnlyError:
            # Not an answer but a reason to try again, see `Connection.call`.
            raise
        except ResponseError as refusal:
            return refusal

    def _break(self) -> None:
        self._line.disconnect()
        self._is_open = self._asked = False
        while self._owed:
            self._owed.popleft()[1](None)
