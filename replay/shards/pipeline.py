"""A line to one shard on which requests go out before earlier ones are answered.

So a sampler asks all shards at once, and waits for the slowest one only; a writer encodes a segment while its
ticket is on the way. What needs no answer now (a new allowance, deletions) is sent and its answer read with
the next one.
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
"""Takes the answers to a request, or None when the line broke before they were read."""


class Request(NamedTuple):
    """Commands as bytes, and how many answers they have."""

    packed: bytes
    answers: int


Command = Sequence[str | int | bytes]
"""A command's name and its arguments."""


def pack(*commands: Command) -> Request:
    """Commands as one request."""
    # The stub knows commands of one argument only.
    packed = [pack_command(tuple(command)) for command in commands]  # type: ignore[arg-type]
    return Request(b"".join(packed), len(commands))


class ShardPipeline:
    """One connection to a shard, opened when needed and opened again when it breaks.

    A refusal by the server is an answer (an exception object in its place), because others follow it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.openings = 0
        """How often the line was opened: after each time the server may be another than before."""
        self._line = connection.new_line()
        self._is_open = False
        self._asked = False
        self._owed: deque[tuple[int, Outcome]] = deque()

    @property
    def is_open(self) -> bool:
        """Whether the next request goes over the line that the last one went over."""
        return self._is_open

    def ask(self, request: Request) -> None:
        """Send a request. `answer` must follow; a line that breaks shows there."""
        if self._asked:  # and never answered: what may still come belongs to nobody
            self._break()
        # Whatever went wrong, `answer` tries again and says what it was.
        with suppress(redis.RedisError, OSError):
            self._send(request)
            self._asked = True

    def answer(self, request: Request) -> list[Any]:
        """The answers to what was asked, asked again for `retry_seconds` while there are none.

        Raises ShardUnavailable, or ShardError when the server refuses the user.
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
        """Read every answer that is owed; raises as `answer` does."""
        if self._owed:
            nothing = Request(b"", 0)
            self.ask(nothing)
            self.answer(nothing)

    def close(self) -> None:
        """Close the line; a later request opens it again."""
        self._break()

    def _send(self, request: Request) -> None:
        try:
            if not self._is_open:
                self._line.connect()
                self._is_open = True
                self.openings += 1
            if request.packed:
                self._line.send_packed_command([request.packed], check_health=False)
        except BaseException:
            self._break()
            raise

    def _read(self, count: int) -> list[Any]:
        try:
            while self._owed:
                answers = [self._next() for _ in range(self._owed[0][0])]
                self._owed.popleft()[1](answers)
            return [self._next() for _ in range(count)]
        except BaseException:
            # What is still to come on this line would be taken for the next request's answer.
            self._break()
            raise

    def _next(self) -> Any:
        try:
            return self._line.read_response()
        except ReadOnlyError:
            raise
        except ResponseError as refusal:
            return refusal

    def _break(self) -> None:
        self._line.disconnect()
        self._is_open = self._asked = False
        while self._owed:
            self._owed.popleft()[1](None)
