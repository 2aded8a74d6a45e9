"""Checks of one machine that `apexpert doctor` makes here, and `apexpert cluster check` on every node."""

import resource
import shutil
import sys
from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """One line of a report: level, what was found, and what to do unless it is `ok`."""

    level: Literal["ok", "warn", "fail"]
    name: str
    found: str
    advice: str = ""


def gigabytes(count: float) -> str:
    """Format bytes as `1.2 GB` (or MB below 0.1 GB)."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def python() -> Finding:
    """Check for Python 3.11 to 3.13."""
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        return Finding("ok", "python", f"{found} ({sys.executable})")
    return Finding("fail", "python", found, "install Python 3.11, 3.12 or 3.13")


def shared_memory() -> Finding:
    """Check /dev/shm, where Ray keeps the weights that it passes to actors."""
    try:
        size = shutil.disk_usage("/dev/shm")
    except OSError:
        return Finding("warn", "shared memory", "no /dev/shm", "Ray will use the disk instead, more slowly")
    found = f"{gigabytes(size.free)} of {gigabytes(size.total)} free in /dev/shm"
    if size.free < 256e6:
        return Finding("warn", "shared memory", found, "in a container: start it with --shm-size=2g")
    return Finding("ok", "shared memory", found)


def open_files() -> Finding:
    """Check the limit on open files; Ray and many actors need some thousands."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft} (ulimit -n), up to {hard}"
    if soft >= 4096:
        return Finding("ok", "open files", found)
    return Finding(
        "fail" if soft < 256 else "warn", "open files", found, "run: ulimit -n 65536 (or as far as it goes)"
    )
