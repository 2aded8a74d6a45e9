"""Linux namespaces that live as long as one process: the first of theirs, which a pipe from here keeps."""

import os
import signal
import subprocess
import sys

import psutil

from tests.helpers.deadline import until

# It ignores SIGCHLD, so that the kernel buries the orphans that it inherits.
FIRST = """
import signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
sys.stdin.read()
"""


class Namespaces:
    """New namespaces of these kinds, as flags of `unshare`; with `--pid`, all processes in them end too."""

    def __init__(self, kinds: list[str], setup: str) -> None:
        """`setup`: a shell script that runs in them first."""
        # The first process ends when this one does, however it does: its standard input is then closed.
        script = f"set -e; {setup}\nexec {sys.executable} -I -S -c '{FIRST}'"
        self._outer = subprocess.Popen(
            ["unshare", *kinds, "--fork", "--kill-child", "sh", "-c", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._outer.stdout is not None
        assert self._outer.stdout.readline() == b"ready\n", "the namespaces' set-up failed"
        (first,) = psutil.Process(self._outer.pid).children()
        self.pid = first.pid
        """The first process, as seen from here."""

    @property
    def alive(self) -> bool:
        """Whether they have not been ended."""
        return self._outer.poll() is None

    def end(self) -> None:
        """Kill the first process and, with a namespace of processes, every other; harmless once more."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
        # The kernel ends the first process last of all.
        until(lambda: self._outer.poll() is not None, "the end of the namespaces", 60)
        for pipe in (self._outer.stdin, self._outer.stdout):
            if pipe is not None:
                pipe.close()


def inside(pid: int, *kinds: str) -> list[str]:
    """Give the command that runs another one in the namespaces of process `pid`."""
    return ["nsenter", "--target", str(pid), *kinds, "--"]
