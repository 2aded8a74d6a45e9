"""The process of one server, a child of the guardian: start it, mend its files, restart it."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from apexpert.backoff import Backoff
from replay.servers.append_only_file import complains, last_line
from replay.servers.append_only_rewrite import remove_leftovers

PR_SET_PDEATHSIG = 1
FIRST_LOOK_S = 0.25
# -P leaves out the current folder, -S installed packages, of which it needs none.
MENDER = [sys.executable, "-P", "-S", "-m", "replay.servers.append_only_file"]
STABLE_S = 5.0
"""A server that lived this long is restarted at once; otherwise after a delay that doubles."""
FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 5.0


@dataclass
class Server:
    """One server process, and when to start it again."""

    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    delays: Backoff = field(default_factory=lambda: Backoff(FIRST_DELAY_S, LONGEST_DELAY_S))
    exits: int = 0
    """How often it ended without being told to."""
    reason: str = ""
    """The last line of its log before it did."""
    told_to_stop: bool = False
    look_at: float = 0.0
    """When to ask for the size of its file."""
    mends: bool = False
    """Whether its process is the one that mends its files, which takes long for a large file."""
    log_size: int = 0
    """Bytes of the log that were already read."""
    wants_rewrite: bool = False
    """Whether its disk was full: a second time would damage its file (replay/servers/append_only_file.py)."""

    def start(self, lock: int) -> None:
        """Start the process; it holds the folder's lock, so that nobody starts servers beside a dying one."""
        guardian = os.getpid()

        def die_with_guardian() -> None:
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != guardian:  # the guardian died before the line above
                os._exit(1)

        remove_leftovers(self.log.parent)
        with self.log.open("ab") as log:
            self.started_at, self.told_to_stop = time.monotonic(), False
            self.look_at = self.started_at + FIRST_LOOK_S
            self.log_size, self.wants_rewrite = log.tell(), False
            self.process = subprocess.Popen(
                [*MENDER, str(self.log.parent)] if self.mends else self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.log.parent,
                # The lock is free when the last process with this descriptor is gone.
                pass_fds=[lock],
                preexec_fn=die_with_guardian,
            )

    def reap(self) -> bool:
        """Note whether the process has ended; return True if it has."""
        if self.process is None or self.process.poll() is None:
            return False
        code, self.process = self.process.returncode, None
        # What was mended has to be tried at once; what could not be mended waits like any other failure.
        if self.mends and not code:
            self.mends, self.start_at = False, time.monotonic()
            self.delays.reset()
        elif not self.mends and not self.told_to_stop and complains(self.log):
            self.mends, self.start_at = True, time.monotonic()
        else:
            self.mends = False
            self.plan_start()
        return True

    def plan_start(self) -> None:
        """Set when to start it next: at once after a restart or a long life, otherwise later each time."""
        self.start_at = now = time.monotonic()
        if not self.told_to_stop:
            self.exits += 1
            self.reason = last_line(self.log)  # before the next start writes to the log
            # The first exit costs no wait, however short the life was.
            if self.exits > 1 and now - self.started_at <= STABLE_S:
                self.start_at += self.delays.next()
                return
        self.delays.reset()

    def stop(self, sign: int = signal.SIGTERM) -> None:
        """Ask the process to end: SIGTERM is Redis' SHUTDOWN, with the append-only file synced."""
        self.told_to_stop = True
        if self.process is not None:
            self.process.send_signal(sign)
