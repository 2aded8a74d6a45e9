"""The parent process of embedded Redis servers: `python -m replay.servers.guardian`, from EmbeddedServers.

It starts the servers, restarts a server that died, and stops them all gracefully when told to
(SIGTERM) or when its owner is gone: then its standard input ends, or its parent is another process.
Each server asks the kernel for a SIGTERM when the guardian dies, so that no way of killing leaves
servers behind. Everything that it imports needs only the standard library, to start in a few
milliseconds.
"""

import argparse
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from apexpert import durable
from replay.servers.append_only_file import was_full
from replay.servers.append_only_rewrite import rewrite, rewrite_if_bloated
from replay.servers.server_process import Server

ADD, REMOVE = b"+", b"-"
"""Commands: run one more server, whose configuration is there, and end the last server for good; a
number stops the server of that index."""
CONFIGURATION = "server.conf"
ARGUMENTS = ["--port", "0", "--include", CONFIGURATION]
"""Arguments of a server in its folder. From version 7 on, servers take a path for a pattern, and if
no file matches it they start with defaults, open to everybody. With these arguments and no file, or
an empty one, a server ends: it has nowhere to listen."""
POLL_S = 0.25
STOP_LIMIT_S = 30.0
SYNC_EVERY_S = 1.0
LOOK_EVERY_S = 1.0  # at a server that cannot tell yet how large its file is


def shard_folder(folder: Path, index: int) -> Path:
    """Return the folder of a shard's append-only file, configuration and log."""
    return folder / f"shard-{index}"


def mark_of(folder: Path) -> list[int]:
    """Return what distinguishes a folder from its copies while its servers live: inode and device."""
    status = folder.stat()
    return [status.st_ino, status.st_dev]


class Guardian:
    """Runs the servers of `folder` until the owner is gone."""

    def __init__(
        self,
        folder: Path,
        sockets: Path,
        server: str,
        shards: int,
        lock: int,
        owner: int,
        sync: int,
        slack: int = 0,
        user: str = "",
    ) -> None:
        """`user` (name and password) has files rewritten that exceed 2 x their data by `slack` bytes."""
        self._folder, self._sockets, self._lock, self._owner = folder, sockets, lock, owner
        self._stopping = self._untold = False
        self._sync_at = time.monotonic() if sync else math.inf
        self._server, self._slack, self._user = server, slack, user
        self._folders: list[Path] = []
        self._servers: list[Server] = []
        for index in range(shards):
            self._add(index)

    def run(self) -> None:
        """Guard until told to stop; then stop the servers and remove their sockets."""
        wake = self._watch_signals()
        try:
            while not self._stopping:
                # A list, not a generator: `any` must not stop at the first server that changed.
                if any([self._care_for(server) for server in self._servers]) or self._untold:
                    self._write_state()
                self._listen(wake)
                for index, server in enumerate(self._servers):
                    self._look_at_size(index, server)
                    self._look_at_log(index, server)
                if time.monotonic() >= self._sync_at:
                    self._sync_files()
        finally:
            self._stop_servers()
            shutil.rmtree(self._sockets, ignore_errors=True)
            self._write_state()

    def _add(self, index: int) -> None:
        folder = shard_folder(self._folder, index)
        self._folders.append(folder)
        self._servers.append(Server([self._server, *ARGUMENTS], folder / "server.log"))

    def _remove(self) -> None:
        server = self._servers.pop()
        self._folders.pop()
        if server.process is not None:
            server.process.kill()  # it never held any data
            server.process.wait()
        self._write_state()

    def _watch_signals(self) -> int:
        """Return a descriptor that is readable after a signal, so that a child's end is noticed at once."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # Without a handler the signal would not reach the descriptor.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        return reader

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _care_for(self, server: Server) -> bool:
        """Reap and restart the server as needed; return True if anything changed."""
        ended = server.reap()
        if server.process is not None or time.monotonic() < server.start_at:
            return ended
        try:
            server.start(self._lock)
        except OSError as error:  # no memory or no processes left, for the moment
            print(f"{server.command[0]}: {error}", file=sys.stderr, flush=True)
            server.plan_start()
        return True

    def _look_at_size(self, index: int, server: Server) -> None:
        """Once its data is loaded, have a server rewrite a file that is far larger than the data."""
        now = time.monotonic()
        if server.process is None or server.mends or now < server.look_at:
            return
        known = rewrite_if_bloated(self._sockets / f"{index}.sock", self._user, self._slack)
        server.look_at = math.inf if known else now + LOOK_EVERY_S

    def _look_at_log(self, index: int, server: Server) -> None:
        """Have a server rewrite its file if it writes again after its disk was full."""
        if server.process is None or server.mends:
            return
        full, server.log_size = was_full(server.log, server.log_size)
        server.wants_rewrite = server.wants_rewrite or full
        if server.wants_rewrite:
            server.wants_rewrite = not rewrite(self._sockets / f"{index}.sock", self._user)

    def _listen(self, wake: int) -> None:
        """Wait for a signal, a command or the owner's end, or until the next start or check is due."""
        now = time.monotonic()
        due = [server.start_at - now for server in self._servers if server.process is None]
        readable, _, _ = select.select([0, wake], [], [], min([POLL_S, *(max(0.0, d) for d in due)]))
        if wake in readable:
            os.read(wake, 4096)
        if 0 in readable:
            text = os.read(0, 4096)
            if not text:
                self._stopping = True
            for word in text.split():
                if word == ADD:
                    self._add(len(self._servers))
                elif word == REMOVE:
                    self._remove()
                else:
                    self._servers[int(word)].stop()
        # A child of the owner may keep the pipe open; the parent's id shows the owner's end as well.
        if os.getppid() != self._owner:
            self._stopping = True

    def _sync_files(self) -> None:
        """Sync what the servers have written to the disk (one file before version 7, several since)."""
        for path in (path for folder in self._folders for path in folder.rglob("appendonly*")):
            try:
                durable.sync(path)
            except FileNotFoundError:
                continue  # rewritten meanwhile
            except OSError as error:  # a full disk must not end the servers
                print(f"{path}: {error}", file=sys.stderr, flush=True)
        self._sync_at = time.monotonic() + SYNC_EVERY_S

    def _stop_servers(self) -> None:
        deadline = time.monotonic() + STOP_LIMIT_S
        # All are told before any is waited for, so that they sync their files side by side.
        for server in self._servers:
            server.stop()
        for server in self._servers:
            if server.process is None:
                continue
            try:
                server.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                server.stop(signal.SIGKILL)
                server.process.wait()
            server.process = None

    def _write_state(self) -> None:
        state = {
            "guardian": os.getpid(),
            "pids": [server.process.pid if server.process else None for server in self._servers],
            "exits": [server.exits for server in self._servers],
            "reasons": [server.reason for server in self._servers],
            "sockets": str(self._sockets),
            "folder": mark_of(self._folder),
        }
        try:
            durable.replace(self._folder / "state.json", json.dumps(state).encode(), 0o600, synced=False)
            self._untold = False
        except OSError:  # a full disk must not end the servers
            self._untold = True


def main() -> None:
    """Parse the arguments that EmbeddedServers passes, and guard."""
    os.umask(0o077)
    parser = argparse.ArgumentParser(prog="replay.servers.guardian", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--sockets", type=Path, required=True)
    parser.add_argument("--server", required=True)
    for name in ("--shards", "--lock", "--owner", "--sync", "--slack"):
        parser.add_argument(name, type=int, required=True)
    user = os.read(0, 4096).decode().strip()  # not an argument: everybody on the machine may read those
    Guardian(**vars(parser.parse_args()), user=user).run()


if __name__ == "__main__":
    main()
