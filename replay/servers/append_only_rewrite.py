"""Has a server write its append-only file anew where that is well above the data.

Servers do so by themselves once the file has doubled since the last time. But Redis 6.2 takes the size at its
start for that of the last time, and so a file that grows by less than its size in each session was never
written anew. Standard library only: the guardian runs it, after each start of a server.
"""

import contextlib
import io
import socket
from collections.abc import Iterator
from pathlib import Path

FACTOR = 2
ANSWER_S = 0.2
"""How long the guardian, which has other servers to care for, waits for an answer."""
LEFT_BEHIND = "temp-rewriteaof-*.aof"
"""What a server that was killed while it wrote leaves in its folder."""


def rewrite_if_bloated(where: Path, user: str, slack: int) -> bool:
    """Ask the server on that socket for a new file if the one it has exceeds 2 x its data by `slack` bytes.

    `user`: name and password. False when the server cannot say yet, because it loads its data or does not
    answer. Without room on the disk it keeps the file that it has, and says so in its log.
    """
    with contextlib.suppress(OSError, ValueError, KeyError), _connection(where, user) as stream:
        stream.write(b"INFO\r\n")
        stream.flush()
        info = _fields(stream.read(int(stream.readline()[1:]) + 2))
        if int(info["loading"]):
            return False
        if int(info["aof_current_size"]) > FACTOR * int(info["used_memory_dataset"]) + slack:
            _ask_for_rewrite(stream)
        return True
    return False


def rewrite(where: Path, user: str) -> bool:
    """Ask the server on that socket for a new file; False when it does not begin one now."""
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
            stream.readline()
            yield stream


def _ask_for_rewrite(stream: io.BufferedRWPair) -> bytes:
    stream.write(b"BGREWRITEAOF\r\n")
    stream.flush()
    return stream.readline()


def remove_leftovers(folder: Path) -> None:
    """Remove the beginnings of new files in a server's folder, while it is down."""
    for path in folder.glob(LEFT_BEHIND):
        path.unlink(missing_ok=True)


def _fields(text: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}
