"""Have a server rewrite an append-only file that is far larger than its data.

Servers do so by themselves once the file has doubled since the last rewrite. But Redis 6.2 takes
the size at its start for the size at the last rewrite, so a file that grows by less than its size
in each session was never rewritten. Standard library only: the guardian runs it, after each start
of a server.
"""

import contextlib
import io
import socket
from collections.abc import Iterator
from pathlib import Path

FACTOR = 2
ANSWER_S = 0.2
"""How long the guardian, which has other servers to watch, waits for an answer."""
LEFT_BEHIND = "temp-rewriteaof-*.aof"
"""Files that a server leaves in its folder if it is killed during a rewrite."""


def rewrite_if_bloated(where: Path, user: str, slack: int) -> bool:
    """Ask the server on that socket to rewrite its file if it exceeds 2 x its data by `slack` bytes.

    `user` is name and password. Returns False if the server cannot tell yet, because it is loading
    its data or does not answer. Without room on the disk the server keeps its file and says so in
    its log.
    """
    with contextlib.suppress(OSError, ValueError, KeyError), _connection(where, user) as stream:
        stream.write(b"INFO\r\n")
        stream.flush()
        # A bulk string, `$LENGTH`, ends with two bytes that the length does not count.
        info = _fields(stream.read(int(stream.readline()[1:]) + 2))
        if int(info["loading"]):
            return False
        # Against the data alone: `used_memory` also counts buffers and the server itself.
        if int(info["aof_current_size"]) > FACTOR * int(info["used_memory_dataset"]) + slack:
            _ask_for_rewrite(stream)
        return True
    return False


def rewrite(where: Path, user: str) -> bool:
    """Ask the server on that socket to rewrite its file; return False if it does not begin now."""
    with contextlib.suppress(OSError), _connection(where, user) as stream:
        return _ask_for_rewrite(stream).startswith(b"+")
    return False


@contextlib.contextmanager
def _connection(where: Path, user: str) -> Iterator[io.BufferedRWPair]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_S)
        connection.connect(str(where))
        with connection.makefile("rwb") as stream:
            stream.write(f"AUTH {user}\r\n".encode())
            stream.flush()
            # Read and not looked at: if the login failed, the next answer says so.
            stream.readline()
            yield stream


def _ask_for_rewrite(stream: io.BufferedRWPair) -> bytes:
    stream.write(b"BGREWRITEAOF\r\n")
    stream.flush()
    return stream.readline()


def remove_leftovers(folder: Path) -> None:
    """Remove unfinished rewrites from a server's folder, while it is down."""
    for path in folder.glob(LEFT_BEHIND):
        path.unlink(missing_ok=True)


def _fields(text: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}
