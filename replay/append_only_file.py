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
import sys
from pathlib import Path

HOLE = re.compile(rb"(?<=\r\n)\0+(?=\*\d+\r\n\$|(?:\*\d*\r?\n?)?\Z)")
"""Zeros between the end of a command and the beginning of one, which may be cut off."""
COMPLAINT = b"Bad file format"
LAST_BYTES = 4096


def complains(log: Path) -> bool:
    """Whether a server's log ends with the refusal of its files."""
    return COMPLAINT in _end_of(log)


def mend(folder: Path) -> int:
    """Close the holes in a server's files while it is down; bytes taken out.

    Each file is replaced as one step, for which there must be room for it a second time; else raises OSError.
    """
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
        try:
            _write(mended, [content[i:j] for i, j in _between(holes, size)])
        except OSError:
            mended.unlink(missing_ok=True)
            raise
    mended.replace(path)
    return sum(end - begin for begin, end in holes)


def _between(holes: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    ends, starts = [begin for begin, _ in holes], [end for _, end in holes]
    return list(zip([0, *starts], [*ends, size], strict=True))


def _write(path: Path, parts: list[bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        for part in parts:
            out.write(part)
        out.flush()
        os.fsync(out.fileno())


def _end_of(log: Path) -> bytes:
    if not log.exists():
        return b""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LAST_BYTES))
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
