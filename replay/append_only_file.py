"""Mends what a full disk leaves in the append-only file of a server of version 7 or later.

After a rewrite such a server writes its file at a place of its own, not at the file's end. When a write comes
short, because the disk is full, it takes the part back (ftruncate), but keeps the place: the next write
leaves a hole of zeros, and the server refuses to load the file ever after ("Bad file format"). Seen with
Valkey 8.1.8 and Redis 7.0.15. The commands before and after the hole are all there. Standard library only:
the guardian runs it.
"""

import mmap
import os
import re
from pathlib import Path

HOLE = re.compile(rb"(?<=\r\n)\0+(?=\*\d+\r\n\$|(?:\*\d*\r?\n?)?\Z)")
"""Zeros between the end of a command and the beginning of one, which may be cut off."""
COMPLAINT = b"Bad file format"
LAST_BYTES = 4096


def mend(folder: Path, log: Path) -> int:
    """Close the holes in a server's files, if its log says that it refused them; bytes taken out.

    Each file is replaced as one step.
    """
    if COMPLAINT not in _end_of(log):
        return 0
    return sum(_close_holes(path) for path in sorted(folder.rglob("appendonly*.aof")))


def _close_holes(path: Path) -> int:
    size = path.stat().st_size
    if not size:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        holes = [match.span() for match in HOLE.finditer(content)]
        if not holes:
            return 0
        mended = path.with_name(path.name + ".mended")
        with mended.open("wb") as out:
            start = 0
            for begin, end in (*holes, (size, size)):
                out.write(content[start:begin])
                start = end
            out.flush()
            os.fsync(out.fileno())
    mended.replace(path)
    return sum(end - begin for begin, end in holes)


def _end_of(log: Path) -> bytes:
    if not log.exists():
        return b""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LAST_BYTES))
        return file.read()
