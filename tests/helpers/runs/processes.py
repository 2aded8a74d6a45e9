"""The processes of a run, found from outside, and small disks to fill."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

from deploy.run.folder import RunFolder


def processes_of(folder: RunFolder, ray_folder: str) -> dict[int, str]:
    """Everything that runs for this run: Ray, roles, guardian, servers; found by the two folders' names.

    Gives each process's command line.
    """
    found = {}
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            words = " ".join([command, *process.environ().values(), process.cwd()])
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if ray_folder in words or str(folder.path) in words:
            found[process.pid] = command
    return found


def live_parts(folder: RunFolder) -> list[int | Path]:
    """Processes and folders of a run at work that its folder names, and so a copy of it too."""
    local = folder.read_json("ray.json", {})["local"]
    state = folder.read_json("replay/state.json", {})
    learner = folder.read_json("status.json", {})["learner"]["pid"]
    pids = [local["pid"], state["guardian"], *state["pids"], learner]
    return [*pids, Path(local["folder"]), Path(state["sockets"])]


def is_there(part: int | Path) -> bool:
    """Whether one of the `live_parts` lives, or has not been removed."""
    return part.exists() if isinstance(part, Path) else is_alive(part)


def is_alive(which: int | psutil.Process) -> bool:
    """Whether the process runs; one that has ended and that nobody has reaped yet does not.

    By its id or, where another process could have that id by now, by the object. It may go at any moment,
    between two questions too, so every test that asks asks here.
    """
    try:
        process = psutil.Process(which) if isinstance(which, int) else which
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def send(number: signal.Signals, pids: list[int]) -> None:
    """A signal to each process that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextlib.contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own at `path`, in memory; needs the right to mount."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def may_mount() -> bool:
    """Whether this process has the right to mount a file system."""
    probe = "mount -t tmpfs none /mnt"
    return subprocess.run(["unshare", "--mount", "sh", "-c", probe], capture_output=True).returncode == 0


def fill(path: Path) -> None:
    """Append to this file until its file system is full to the last byte."""
    with path.open("ab", buffering=0) as file:
        for block in (65536, 512, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(block))
