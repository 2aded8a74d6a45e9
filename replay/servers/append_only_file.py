"""Mends what a full disk leaves in the append-only file of a server of version 7 or later.

After a rewrite such a server writes its file at a place of its own, not at the file's end. When a write comes
short, because the disk is full, it takes the part back (ftruncate), but keeps the place: the next write
leaves a hole of zeros, and the server refuses to load the file ever after ("Bad file format"). The commands
before and after the first hole are all there. When the disk is full once more, it truncates at the wrong
place, and takes with it as many bytes of the newest commands as the first hole has: the second hole is in the
middle of a command. So the guardian has a file rewritten after the first one. Seen with Valkey 8.1.8 and
9.1.2, and Redis 7.0.15. Standard library only: the guardian runs it.
"""

import mmap
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

COUNT = re.compile(rb"\*(\d+)\r\n")
LENGTH = re.compile(rb"\$(\d+)\r\n")
NEXT = re.compile(rb"\0+(?=\*\d+\r\n\$|(?:\*\d*\r?\n?)?\Z)")
"""Zeros up to the beginning of a command, which may be cut off."""
BEGIN, END = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"
SNAPSHOT = b"REDIS"
"""How a file begins that is not commands from its first byte on: what was rewritten before version 7."""
COMPLAINT = b"Bad file format"
ROOM_AGAIN = b"AOF write error looks solved"
LAST_BYTES = 4096


def complains(log: Path) -> bool:
    """Whether a server's log ends with the refusal of its files."""
    return COMPLAINT in _read(log, max(0, _size(log) - LAST_BYTES))


def last_line(log: Path) -> str:
    """What a server's log says last; empty if there is nothing."""
    return _read(log, max(0, _size(log) - LAST_BYTES)).decode(errors="replace").strip().rpartition("\n")[2]


def was_full(log: Path, start: int) -> tuple[bool, int]:
    """Whether a server's log says from that byte on that its disk has room again; and the log's size."""
    size = _size(log)
    if size <= start:
        return False, size
    # The line may have been half there at the last look.
    return ROOM_AGAIN in _read(log, max(0, start - len(ROOM_AGAIN))), size


def mend(folder: Path) -> int:
    """Close the holes in a server's files while it is down; bytes taken out.

    A transaction that was cut into by a hole goes as well. Each file is replaced as one step, for which there
    must be room for it a second time; else raises OSError.
    """
    return sum(_close_holes(path) for path in sorted(folder.rglob("appendonly*.aof")))


def _close_holes(path: Path) -> int:
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
            _write(mended, [content[begin:end] for begin, end in parts])
        except OSError:
            mended.unlink(missing_ok=True)
            raise
    mended.replace(path)
    return size - kept


def _whole_parts(content: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Begin and end of what is between the holes; the last one may be cut off, which servers put up with."""
    begin = place = whole = 0  # whole: the end of what has no transaction open
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
        is_cut = hole.start() > place or content[hole.end() : hole.end() + len(BEGIN)] == BEGIN
        yield begin, whole if is_cut else place
        is_open = is_open and not is_cut
        begin = place = whole = hole.end()
    yield begin, len(content)


def _end_of_command(content: mmap.mmap, place: int) -> int | None:
    """Where the command ends that begins there; None for one that is not whole."""
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


def _write(path: Path, parts: list[bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        for part in parts:
            out.write(part)
        out.flush()
        os.fsync(out.fileno())


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _read(log: Path, start: int) -> bytes:
    if not log.exists():
        return b""
    with log.open("rb") as file:
        file.seek(start)
        return file.read()


def main() -> int:
    """Mend the files of the folder that the first argument names; 1 when nothing was, or could be, mended."""
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
