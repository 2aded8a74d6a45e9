"""Who may do what on a Redis server: one ACL user, just the commands used, just the runs' keys."""

from hashlib import sha256
from typing import Final
from urllib.parse import quote

CLIENT: Final = "apexpert"
"""The user of writers, samplers and `apexpert replay`."""

GUARDIAN: Final = "apexpert-guardian"
"""The user of the servers' guardian, who may look at no key."""
GUARDIAN_COMMANDS: Final = ("bgrewriteaof", "info")

# fmt: off
CLIENT_COMMANDS: Final = (
    "exec", "exists", "get", "getrange", "hdel", "hexists", "hgetall", "hset", "incrby", "info", "mget",
    "multi", "ping", "scan", "set", "unlink", "unwatch", "watch", "xadd", "xdel", "xlen",
    "xrange",
)
"""Everything that replay asks of a server, in Redis 6.2 and later."""
# fmt: on


def client_rules() -> str:
    """ACL rules of the client's user but for its password: only the runs' keys, only what is used."""
    return " ".join(["resetchannels", "~apexpert:*", "-@all", *(f"+{name}" for name in CLIENT_COMMANDS)])


def users(password: str) -> list[str]:
    """The `user` lines of a server's configuration, with the password's hash. Nobody else gets in."""
    hashed = sha256(password.encode()).hexdigest()
    # Off: nobody can be the default user. But the server itself is while it loads its append-only file, and
    # without these rules it refuses every transaction in there, silently: all data would be gone.
    return ["user default off resetpass ~* &* +@all", f"user {CLIENT} on #{hashed} {client_rules()}"]


def guardian_user(password: str) -> str:
    """The `user` line of the guardian, with its password's hash."""
    hashed = sha256(password.encode()).hexdigest()
    rules = " ".join(["resetchannels", "-@all", *(f"+{name}" for name in GUARDIAN_COMMANDS)])
    return f"user {GUARDIAN} on #{hashed} {rules}"


def socket_url(socket: str, password: str) -> str:
    """URL of a server on a UNIX socket: not for logs."""
    return f"unix://{CLIENT}:{quote(password, safe='')}@{quote(socket)}"


def network_url(address: str, port: int, password: str) -> str:
    """URL of a server that listens on a node's address: not for logs."""
    host = f"[{address}]" if ":" in address else address
    return f"redis://{CLIENT}:{quote(password, safe='')}@{host}:{port}"
