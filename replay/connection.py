"""A client of one Redis server that repeats what a lost connection cut off and speaks in replay's errors."""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.retry import Retry

from replay.errors import ShardError, ShardFull, ShardUnavailable

T = TypeVar("T")

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.02, 1.0
CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 5.0, 15.0


class Connection:
    """One server under a `redis://`, `rediss://` or `unix://` URL; `name` starts every error's text.

    Nothing here shows user names or passwords: `address` is the URL without them, ending in the database's
    number.
    """

    def __init__(self, url: str, *, name: str, retry_seconds: float) -> None:
        self.retry_seconds = retry_seconds
        self.retries = 0
        self.client, self.address = _connect(url, name)
        self._name = f"{name} ({self.address})"

    def call(self, command: Callable[[], T]) -> T:
        """Run `command`, again after each lost connection, with backoff and jitter, for `retry_seconds`.

        Raises ShardUnavailable after that, ShardFull for a refused write, ShardError for any other answer.
        """
        deadline = time.monotonic() + self.retry_seconds
        backoff = FIRST_BACKOFF_S
        while True:
            try:
                return command()
            except (AuthenticationError, AuthorizationError) as error:
                raise ShardError(f"{self._name} refuses the user or password: {one_line(error)}") from None
            except (redis.ConnectionError, redis.TimeoutError, ReadOnlyError) as error:
                if time.monotonic() + backoff > deadline:
                    reason = f"cannot be reached for {self.retry_seconds:g} s: {one_line(error)}"
                    raise ShardUnavailable(f"{self._name} {reason}") from None
            except RedisError as error:
                raise self._refusal(error) from None
            self.retries += 1
            time.sleep(backoff * random.uniform(0.5, 1.0))
            backoff = min(2 * backoff, LONGEST_BACKOFF_S)

    def _refusal(self, error: RedisError) -> ShardError:
        text = one_line(error)
        # A full disk says MISCONF. A full memory's OOM is in the class, or in the text of an aborted MULTI.
        full = isinstance(error, OutOfMemoryError) or "OOM " in text or "MISCONF" in text
        return ShardFull(f"{self._name} is full: {text}") if full else ShardError(f"{self._name}: {text}")


def one_line(error: BaseException) -> str:
    """The error's text as one line; the client's own messages name addresses, never passwords."""
    text = " ".join(str(error).split())
    # Of a pipeline, the client quotes the whole command, a segment's bytes included.
    text = text.rpartition(" of pipeline caused error: ")[2]
    return text[:200] or type(error).__name__


def _connect(url: str, name: str) -> tuple[Any, str]:
    timeouts = {"socket_timeout": ANSWER_TIMEOUT_S, "socket_connect_timeout": CONNECT_TIMEOUT_S}
    try:
        pool = redis.ConnectionPool.from_url(url, **timeouts)
    except (ValueError, TypeError, RedisError):
        # The client's text may quote parts of the URL.
        raise ShardError(f"{name}: not a usable redis://, rediss:// or unix:// URL") from None
    options = pool.connection_kwargs
    # Retries are ours, and bytes are bytes, whatever the URL asks for.
    options.update(retry=Retry(NoBackoff(), 0), decode_responses=False)
    scheme = url.partition(":")[0]
    if scheme == "unix":
        place = quote(str(options.get("path", "")))
    else:
        place = f"{options.get('host', 'localhost')}:{options.get('port', 6379)}".lower()
    return redis.Redis(connection_pool=pool), f"{scheme}://{place}/{int(options.get('db') or 0)}"
