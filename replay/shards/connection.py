"""A client of one Redis server that retries after lost connections and raises the errors of `replay`."""

import ssl
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.retry import Retry

from apexpert.backoff import Backoff
from apexpert.errors import one_line
from replay.errors import ShardError, ShardFull, ShardUnavailable

T = TypeVar("T")

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.02, 1.0
CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 5.0, 15.0
SHORTEST_TIMEOUT_S = 0.1
CLIENT_ALERTS = ("_CERTIFICATE_REQUIRED", "_UNKNOWN_CA", "_BAD_CERTIFICATE", "_CERTIFICATE_EXPIRED")
"""TLS alerts that a server sends if the client's certificate is missing or not trusted."""


class Connection:
    """A server behind a `redis://`, `rediss://` or `unix://` URL; `name` starts every error's text.

    User names and passwords are never shown: `address` is the URL without them, ending in the
    database's number. No answer is awaited for longer than `retry_seconds`, so that a frozen server
    costs no more than one that is down.
    """

    def __init__(self, url: str, *, name: str, retry_seconds: float) -> None:
        self.retry_seconds = retry_seconds
        self.retries = 0
        self.client, self.address = _connect(url, name, max(retry_seconds, SHORTEST_TIMEOUT_S))
        self._name = f"{name} ({self.address})"

    def new_line(self) -> Any:
        """Return a connection beside the client's, not opened yet, for requests that are sent
        before earlier ones are answered.
        """
        return self.client.connection_pool.make_connection()

    def call(self, command: Callable[[], T]) -> T:
        """Run `command`, again after each lost connection, with backoff and jitter, for `retry_seconds`.

        Raises ShardUnavailable after that, ShardFull for a refused write, ShardError for any other
        answer.
        """
        began = time.monotonic()
        waits = Backoff(FIRST_BACKOFF_S, LONGEST_BACKOFF_S, jitter=True)
        while True:
            wait = waits.next()
            try:
                return command()
            except (AuthenticationError, AuthorizationError) as error:
                raise ShardError(f"{self._name} refuses the user or password: {client_line(error)}") from None
            except (redis.ConnectionError, redis.TimeoutError, ReadOnlyError) as error:
                # READONLY: this server is a replica now. A failover keeps the name
                # (docs/scaling.md), so retry.
                if self.address.startswith("rediss:") and (wrong := _tls_fault(error)):
                    raise ShardError(f"{self._name}: {wrong}: {client_line(error)}") from None
                if time.monotonic() + wait > began + self.retry_seconds:
                    reason = f"cannot be reached for {self.retry_seconds:g} s: {client_line(error)}"
                    raise ShardUnavailable(f"{self._name} {reason}") from None
            except RedisError as error:
                raise self.refusal(error) from None
            self.retries += 1
            time.sleep(wait)

    def refusal(self, error: RedisError) -> ShardError:
        """Return the error of `replay.errors` for a server's refusal."""
        text = client_line(error)
        # Where MULTI is not allowed, the client only reports the failure of the EXEC that follows.
        refused = "no permissions" in text or "EXEC without MULTI" in text
        if isinstance(error, NoPermissionError) or refused:
            return ShardError(f"{self._name}: {text}; docs/security.md lists what its user must be allowed")
        # A full disk answers MISCONF. A full memory's OOM is the class, or in the text of an aborted MULTI.
        full = isinstance(error, OutOfMemoryError) or "OOM " in text or "MISCONF" in text
        return ShardFull(f"{self._name} is full: {text}") if full else ShardError(f"{self._name}: {text}")


def client_line(error: BaseException) -> str:
    """Return the error's text as one line; the client's own messages name addresses, never passwords."""
    text = one_line(error)
    # For a pipeline, the client quotes the whole command, a segment's bytes included.
    text = text.rpartition(" of pipeline caused error: ")[2]
    return text[:200] or type(error).__name__


def _tls_fault(error: BaseException) -> str:
    """Return what is wrong with a `rediss://` URL if retrying cannot help; "" if it may."""
    cause = error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "its certificate is not trusted; name the file of its CA in the URL, ?ssl_ca_certs=FILE"
    reason = str(cause.reason) if isinstance(cause, ssl.SSLError) else ""
    if reason.endswith(CLIENT_ALERTS):
        files = "?ssl_certfile=FILE&ssl_keyfile=FILE"
        return f"it does not take the client's certificate, or asks for one; the URL names it, {files}"
    if reason == "KEY_VALUES_MISMATCH":
        return "ssl_certfile and ssl_keyfile in its URL do not belong together"
    unreadable = isinstance(cause, FileNotFoundError | PermissionError | IsADirectoryError)
    if unreadable or reason == "NO_CERTIFICATE_OR_CRL_FOUND":
        return "a file that its URL names (ssl_ca_certs, ssl_certfile, ssl_keyfile) cannot be read"
    return ""


def _connect(url: str, name: str, longest_wait: float) -> tuple[Any, str]:
    # RESP2 and no library name, so that connecting sends no commands but ours (docs/security.md).
    options: dict[str, Any] = {
        "socket_connect_timeout": min(longest_wait, CONNECT_TIMEOUT_S),
        "socket_timeout": min(longest_wait, ANSWER_TIMEOUT_S),
        "protocol": 2,
    }
    try:
        pool = redis.ConnectionPool.from_url(url, **options)
    except (ValueError, TypeError, RedisError):
        # The client's text may quote parts of the URL.
        raise ShardError(f"{name}: not a usable redis://, rediss:// or unix:// URL") from None
    options = pool.connection_kwargs
    # Retries are handled by `call`, and answers stay bytes, whatever the URL asks for.
    options.update(retry=Retry(NoBackoff(), 0), decode_responses=False, protocol=2)
    options.update(lib_name=None, lib_version=None)
    scheme = url.partition(":")[0]
    if scheme == "unix":
        place = quote(str(options.get("path", "")))
    else:
        place = f"{options.get('host', 'localhost')}:{options.get('port', 6379)}".lower()
    return redis.Redis(connection_pool=pool), f"{scheme}://{place}/{int(options.get('db') or 0)}"
