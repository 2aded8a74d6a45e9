"""Lock the folder of embedded servers: two servers on one append-only file corrupt it."""

import contextlib
import fcntl
import os
import time
from pathlib import Path

from replay.errors import ServerError
from replay.servers.hard_links import is_own_lock

WAIT_FOR_DYING_S, WAIT_FOR_ALIVE_S = 40.0, 0.5


def lock_folder(path: Path) -> int:
    """Lock the folder and return the lock's descriptor; raises ServerError if others run servers there.

    Servers whose owner is gone are about to end, so they are waited for.
    """
    descriptor = _locked(path)
    if not is_own_lock(descriptor, path):  # shared with a copy by hard links, and replaced now
        os.close(descriptor)
        descriptor = _locked(path)
    name = _process_name(str(os.getpid())).encode()
    with contextlib.suppress(OSError):  # a full disk: the lock is held all the same
        os.pwrite(descriptor, name, 0)
        os.ftruncate(descriptor, len(name))
    return descriptor


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 100, 0).decode(errors="replace")
            limit = WAIT_FOR_ALIVE_S if holder == _process_name(holder.split(" ")[0]) else WAIT_FOR_DYING_S
            if time.monotonic() - began < limit:
                time.sleep(0.02)
                continue
            os.close(descriptor)
            user = holder.split(" ")[0]
            raise ServerError(f"{path.parent} is in use by the servers of process {user}") from None
        return descriptor


def _process_name(pid: str) -> str:
    """Return the process id and, where /proc tells, its start, since ids are reused; "" if it is gone."""
    try:
        os.kill(int(pid), 0)
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (ValueError, ProcessLookupError):
        return ""
    except OSError:
        return pid
    return f"{pid} {started}"
