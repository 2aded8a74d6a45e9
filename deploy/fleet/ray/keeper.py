"""Parent process of the Ray that a run starts for itself: keeps it, ends it, and leaves nothing behind.

It is started by path and uses only the standard library, so that it is small and starts at once. Its standard
input is a pipe from the command that started it. It ends Ray and removes Ray's folder when told to (SIGTERM),
and when the command dies before a supervisor has claimed the Ray (file `claimed`).
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG = 1
CLAIM, ENDING = "claimed", "ending"
GRACE_SECONDS = 6.0

stop_requested = False


def request_stop(_signal: int, _frame: FrameType | None) -> None:
    """Handle SIGTERM: end Ray at the next check."""
    global stop_requested
    stop_requested = True


def die_with_parent() -> None:
    """Have the child, before exec, get SIGTERM when the keeper dies, however it dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def command_is_gone() -> bool:
    """Whether the pipe from the command has been closed."""
    readable, _, _ = select.select([sys.stdin], [], [], 0)
    # A closed pipe is readable and gives nothing; a live command never writes.
    return bool(readable) and not os.read(sys.stdin.fileno(), 1)


def watch(ray: subprocess.Popen[bytes], folder: Path) -> None:
    """Return when Ray should end, or has ended."""
    orphaned = False
    while not stop_requested and ray.poll() is None:
        orphaned = orphaned or command_is_gone()
        if orphaned and not (folder / CLAIM).exists():
            return
        time.sleep(0.2)


def finish(ray: subprocess.Popen[bytes], folder: Path) -> None:
    """End Ray, remove its folder, and kill what is left of this process group, which is only Ray's.

    The folder of a Ray that ended by itself is kept: its logs say why.
    """
    if ray.poll() is None:
        # Noted before SIGTERM: Ray waits for its workers, so the supervisor must not wait for Ray.
        with contextlib.suppress(OSError):  # A full disk: a supervisor then waits a while for Ray's end.
            (folder / ENDING).touch()
        ray.terminate()
        try:
            ray.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            ray.kill()
        shutil.rmtree(folder, ignore_errors=True)
    # This kills the keeper as well, so it has to be the last line.
    os.killpg(0, signal.SIGKILL)


def main(folder: Path, command: list[str]) -> None:
    """Run `command` (`ray start --block ...`) for as long as it is wanted; `folder` is removed afterwards."""
    signal.signal(signal.SIGTERM, request_stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with (folder / "ray-start.log").open("wb") as log:
        ray = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
    watch(ray, folder)
    finish(ray, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
