"""Mend the damage that a full disk does to the append-only file of a server of version 7 or later.

After a rewrite such a server writes at a file position of its own, not at the end of the file. When
a full disk cuts a write short, it removes the part written (ftruncate) but keeps the position: the
next write leaves a hole of zeros, and the server refuses to load the file from then on ("Bad file
format"). The commands before and after the first hole are complete. If the disk fills up again, the
server truncates at the wrong position and removes as many bytes of the newest commands as the first
hole has: the second hole is in the middle of a command. The guardian therefore has a file rewritten
after the first hole. Seen with Valkey 8.1.8 and 9.1.2, and Redis 7.0.15. Standard library only: the
guardian runs it.
"""

import mmap
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from apexpert import durable

COUNT = re.compile(rb"\*(\d+)\r\n")
LENGTH = re.compile(rb"\$(\d+)\r\n")
NEXT = re.compile(rb"\0+(?=\*\d+\r\n\$|(?:\*\d*\r?\n?)?\Z)")
"""Zeros up to the beginning of a command, which may itself be cut off."""
BEGIN, END = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"
SNAPSHOT = b"REDIS"
"""Start of a file that does not begin with commands: one that was rewritten before version 7."""
COMPLAINT = b"Bad file format"
ROOM_AGAIN = b"AOF write error looks solved"
LAST_BYTES = 4096


def complains(log: Path) -> bool:
    """Whether a server's log ends with the message that it refuses its files."""
    return COMPLAINT in _read(log, max(0, _size(log) - LAST_BYTES))


def last_line(log: Path) -> str:
    """Return the last line of a server's log, empty if there is none."""
    return _read(log, max(0, _size(log) - LAST_BYTES)).decode(errors="replace").strip().rpartition("\n")[2]


def was_full(log: Path, start: int) -> tuple[bool, int]:
    """Return whether the log says after byte `start` that the disk has room again, and the log's size."""
    size = _size(log)
    if size <= start:
        return False, size
    # The message may have been written only in part at the last check.
    return ROOM_AGAIN in _read(log, max(0, start - len(ROOM_AGAIN))), size


def mend(folder: Path) -> int:
    """Remove the holes in a server's files while it is down; return the number of bytes removed.

    A transaction that a hole interrupts is removed as well. Each file is replaced in one step,
    which needs room for a second copy of it; raises OSError if there is none.
    """
    return sum(_close_holes(path) for path in sorted(folder.rglob("appendonly*.aof")))


def _close_holes(path: Path) -> int:
    # An empty file cannot be mapped.
    size = path.stat().st_size
    if not size:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[: len(SNAPSHOT)] == SNAPSHOT:
            return 0
        parts = list(_whole_parts(content))
        kept = sum(end - begin for begin, end in parts)
        if kept == size:
            return 0
        mended = path.with_name(path.name + ".mended")
        try:
            durable.write(mended, (content[begin:end] for begin, end in parts), 0o600)
        except OSError:
            mended.unlink(missing_ok=True)
            raise
    mended.replace(path)
    durable.sync(path.parent)
    return size - kept


def _whole_parts(content: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Yield start and end of each part between holes; the last may be cut off, which servers tolerate."""
    begin = place = whole = 0  # whole: the end of the last command outside any open transaction
    is_open = False
    while place < len(content):
        end = _end_of_command(content, place)
        if end:
            is_open = content[place:end] == BEGIN or (is_open and content[place:end] != END)
            place = end
            whole = whole if is_open else place
            continue
        hole = NEXT.search(content, place)
        if hole is None:
            break
        # Part of a command before the hole, or a new transaction behind it: an open transaction
        # has lost its end and is left out.
        is_cut = hole.start() > place or content[hole.end() : hole.end() + len(BEGIN)] == BEGIN
        yield begin, whole if is_cut else place
        is_open = is_open and not is_cut
        begin = place = whole = hole.end()
    yield begin, len(content)


def _end_of_command(content: mmap.mmap, place: int) -> int | None:
    """Return the end of the command that begins at `place`, None if it is incomplete."""
    count = COUNT.match(content, place)
    if count is None:
        return None
    end = count.end()
    for _ in range(int(count[1])):
        length = LENGTH.match(content, end)
        if length is None:
            return None
        end = length.end() + int(length[1]) + 2
        if content[end - 2 : end] != b"\r\n":
            return None
    return end


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _read(log: Path, start: int) -> bytes:
    if not log.exists():
        return b""
    with log.open("rb") as file:
        file.seek(start)
        return file.read()


def main() -> int:
    """Mend the files in the folder of the first argument; return 1 if nothing was, or could be, mended."""
    folder = Path(sys.argv[1])
    try:
        mended = mend(folder)
    except OSError as error:
        print(f"{folder} cannot be mended: {error.strerror}", flush=True)
        return 1
    print(f"{mended} bytes of zeros taken out of the append-only file", flush=True)
    return 0 if mended else 1


if __name__ == "__main__":
    sys.exit(main())
