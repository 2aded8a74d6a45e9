"""Write the configuration of one embedded server: where it listens, and who may do what there.

There is one ACL user for clients, with only the commands that are used, on only the runs' keys.

The file contains no path of the run's folder: a server works in its folder (ARGUMENTS in
replay/servers/guardian.py).
"""

import errno
import ipaddress
import os
import random
import socket
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Final
from urllib.parse import quote

from replay.errors import ServerError

SOCKETS_PREFIX = "apexpert-"
SOCKET_PATH_LIMIT = 100  # the kernel's is 107 bytes
FIRST_PORT, LAST_PORT = 16400, 32000
"""Below the ports that the kernel assigns to outgoing connections: from those, a client that
reconnects to a server that is down could end up connected to itself."""
CLIENT: Final = "apexpert"
"""The user of writers, samplers and `apexpert replay`."""

GUARDIAN: Final = "apexpert-guardian"
"""The user of the servers' guardian, who may read no key."""
GUARDIAN_COMMANDS: Final = ("bgrewriteaof", "info")

# fmt: off
CLIENT_COMMANDS: Final = (
    "exec", "exists", "get", "getrange", "hdel", "hexists", "hgetall", "hset", "incrby", "info", "mget",
    "multi", "ping", "scan", "set", "unlink", "unwatch", "watch", "xadd", "xdel", "xlen",
    "xrange",
)
"""All commands that replay sends to a server, in Redis 6.2 and later."""
# fmt: on


@dataclass(frozen=True)
class Listening:
    """Where one server listens: always on a socket of this machine, and on a node's address if `port`."""

    socket: Path
    address: str = ""
    port: int = 0

    def url(self, password: str) -> str:
        """The server's URL: not for logs."""
        if self.port:
            return network_url(self.address, self.port, password)
        return socket_url(str(self.socket), password)


def choose_places(listen: str | None, count: int) -> list[Listening]:
    """Sockets in a new folder and, at the address `listen`, free ports, for `count` servers."""
    ports = free_ports(listen, count) if listen else [0] * count
    sockets = socket_folder()
    return [Listening(sockets / f"{i}.sock", listen or "", port) for i, port in enumerate(ports)]


def configuration(
    where: Listening,
    *,
    password: str,
    guardian_password: str,
    maxmemory: int,
    append_fsync: str,
) -> str:
    """Return the text of server.conf for a server that keeps its files in its working folder."""
    settings = {
        "port": where.port,
        "unixsocket": _quoted(where.socket),
        "unixsocketperm": 700,
        "protected-mode": "yes",
        "daemonize": "no",
        "maxmemory": maxmemory,
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        # With everysec a server answers before it writes while a sync is slow: killing it would
        # lose acknowledged segments. With no, it always writes first, and the guardian syncs.
        "appendfsync": "always" if append_fsync == "always" else "no",
        # A power loss may cut the last command short; all that was acknowledged before it is kept.
        "aof-load-truncated": "yes",
        "auto-aof-rewrite-min-size": "256mb",
        # No snapshots: the append-only file holds everything.
        "save": '""',
    }
    if where.address:
        settings["bind"] = where.address
    lines = [f"{name} {value}" for name, value in settings.items()]
    return "\n".join([*lines, *users(password), guardian_user(guardian_password), ""])


def socket_folder() -> Path:
    """Create a folder for this user only, whose path is short enough for sockets and fits into a URL."""
    for parent in (tempfile.gettempdir(), "/tmp"):
        if has_room_for_sockets(parent) and _is_text(parent):
            return Path(tempfile.mkdtemp(prefix=SOCKETS_PREFIX, dir=parent))
    raise ServerError(f"the temporary folder's path is too long for a socket: {tempfile.gettempdir()}")


def has_room_for_sockets(parent: str) -> bool:
    """Whether sockets fit into a folder that is made in `parent`: the system limits their paths."""
    return len(os.fsencode(parent)) + len("/apexpert-12345678/999.sock") < SOCKET_PATH_LIMIT


def _is_text(name: str) -> bool:
    """Whether a file's name is valid UTF-8, as a URL needs; other bytes appear as surrogates here."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def free_ports(address: str, count: int) -> list[int]:
    """Return ports of one of this machine's addresses on which nothing listens; raises ServerError.

    The search begins at a random port, so that runs that start together rarely collide.
    """
    if _is_wildcard(address):
        raise ServerError(f"embedded servers listen on one address, not on all ({address})")
    first = random.randrange(FIRST_PORT, LAST_PORT)
    ports = chain(range(first, LAST_PORT), range(FIRST_PORT, first))
    free = list(islice((port for port in ports if _is_free(address, port)), count))
    if len(free) < count:
        raise ServerError(f"no {count} free ports on {address} from {FIRST_PORT} to {LAST_PORT}")
    return free


def _is_wildcard(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_unspecified
    except ValueError:
        raise ServerError(f"embedded servers listen on an IP address, not on {address!r}") from None


def _is_free(address: str, port: int) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            # As servers do: a port whose last connection has just closed is free for them.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        reason = f"embedded servers cannot listen on {address}: {error.strerror}"
        raise ServerError(f"{reason}; give --replay.urls") from None
    return True


def _quoted(path: Path) -> str:
    """Quote a path, with every byte that is not plain as \\xhh: a file's name may hold any byte but zero."""
    plain = (
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}"
        for byte in os.fsencode(path)
    )
    return f'"{"".join(plain)}"'


def client_rules() -> str:
    """Return the ACL rules of the client's user without its password: the runs' keys, the commands used."""
    return " ".join(["resetchannels", "~apexpert:*", "-@all", *(f"+{name}" for name in CLIENT_COMMANDS)])


def users(password: str) -> list[str]:
    """Return the `user` lines of a server's configuration, with the password's hash. Nobody else gets in."""
    hashed = sha256(password.encode()).hexdigest()
    # Off, so that nobody can log in as the default user. But the server loads its append-only file
    # as that user: without these rules it silently refuses every transaction in the file, and all
    # data would be gone.
    return ["user default off resetpass ~* &* +@all", f"user {CLIENT} on #{hashed} {client_rules()}"]


def guardian_user(password: str) -> str:
    """Return the `user` line of the guardian, with its password's hash."""
    hashed = sha256(password.encode()).hexdigest()
    rules = " ".join(["resetchannels", "-@all", *(f"+{name}" for name in GUARDIAN_COMMANDS)])
    return f"user {GUARDIAN} on #{hashed} {rules}"


def socket_url(socket: str, password: str) -> str:
    """Return the URL of a server on a UNIX socket, password included: not for logs."""
    return f"unix://{CLIENT}:{quote(password, safe='')}@{quote(socket)}"


def network_url(address: str, port: int, password: str) -> str:
    """Return the URL of a server that listens on a node's address, password included: not for logs."""
    host = f"[{address}]" if ":" in address else address
    return f"redis://{CLIENT}:{quote(password, safe='')}@{host}:{port}"
