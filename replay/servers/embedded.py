"""Embedded Redis servers: found, started below a guardian process, and stopped with their owner.

Folder: lock (held while servers run here), password, record.json (who wrote the files), state.json (process
ids), guardian.log, and shard-<i>/ with server.conf, server.log and the append-only file.
"""

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Self, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from apexpert import durable
from replay.errors import ServerError, ServersStopped
from replay.servers.append_only_file import last_line
from replay.servers.binary import ServerBinary, find_server
from replay.servers.configuration import GUARDIAN, Listening, choose_places, configuration, free_ports
from replay.servers.folder_lock import lock_folder
from replay.servers.full_disk import with_room
from replay.servers.guardian import ADD, CONFIGURATION, REMOVE, shard_folder
from replay.servers.guardian_process import (
    clear_leftovers,
    end_guardian,
    read_state,
    remove_sockets,
    run_guardian,
)
from replay.servers.hard_links import own_files, unshare
from replay.servers.record import ServerRecord, whole_password

__all__ = ["EmbeddedServers", "ServerBinary", "find_server"]

T = TypeVar("T")

START_LIMIT_S = 30.0
LOAD_LIMIT_S = 900.0
ADD_LIMIT_S = 10.0
"""For a server that is added, which has nothing to load: whoever waits has others to care for."""
MEANT_SECONDS = 1.0
"""So much later than its servers a process may be told that the run ends."""
TOLD_TO_STOP = "told to stop before the embedded servers were ready"
REWRITE_SLACK = 64 * 1024**2
"""Bytes of an append-only file above twice its data, with which a server starts and does not rewrite it."""


class EmbeddedServers:
    """`shards` Redis servers on UNIX sockets, with their files in `folder`; they end with this process.

    With `listen` they are reached over the network too, at that address of this machine; nothing is
    encrypted there (docs/security.md). `append_fsync` says how often files are synced to disk ("everysec" or
    "always"), `maxmemory` is bytes a server, `server` the path of another program than find_server's;
    `should_stop` is asked while they load, and while a full disk is waited for, `room_seconds` at most. A
    server whose file exceeds twice its data by `rewrite_slack` bytes when it starts rewrites it, beside its
    other work.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        shards: int,
        append_fsync: str,
        maxmemory: int,
        server: str | None = None,
        listen: str | None = None,
        rewrite_slack: int = REWRITE_SLACK,
        should_stop: Callable[[], bool] = lambda: False,
        room_seconds: float = 0.0,
    ) -> None:
        self._folder, self._shards = Path(folder).resolve(), shards
        self._append_fsync, self._maxmemory = append_fsync, maxmemory
        self._server, self._listen, self._should_stop = server, listen, should_stop
        self._record, self._rewrite_slack = ServerRecord(self._folder), rewrite_slack
        self._room_seconds = room_seconds
        self._guardian: subprocess.Popen[bytes] | None = None
        self._places: list[Listening] = []
        self._password = self._guardian_password = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def urls(self) -> list[str]:
        """The servers' URLs, password included: not for logs."""
        return [place.url(self._password) for place in self._places]

    @property
    def pids(self) -> list[int | None]:
        """Process ids of the servers now, None for one that is being started again."""
        return list(read_state(self._folder, self._shards)["pids"])

    @property
    def alive(self) -> bool:
        """Whether the guardian runs, which starts servers again that die."""
        return self._guardian is not None and self._guardian.poll() is None

    def start(self) -> list[str]:
        """Start the servers, wait until their data is loaded, and return their URLs.

        Raises ServerError when the folder is in use or was written by a later server, or when a server does
        not start; ServersStopped when `should_stop` says so.
        """
        if self._guardian is not None:
            return self.urls
        server = find_server(self._server, files_of=self._record.writer)
        self._with_room(lambda: self._folder.mkdir(parents=True, exist_ok=True))
        self._folder.chmod(0o700)
        lock = lock_folder(self._folder / "lock")
        try:
            self._start_below(server, lock)
            for index in range(self._shards):
                self._wait_ready(index)
        except BaseException:
            self.stop()
            raise
        return self.urls

    def _start_below(self, server: ServerBinary, lock: int) -> None:
        """Start the guardian, which starts the servers; they hold the lock from then on."""
        try:
            self._with_room(lambda: unshare(own_files(self._folder)))
            self._record.check(server, self._shards)
            clear_leftovers(self._folder)
            # Before any server writes, so that the version that wrote the files is always known.
            self._with_room(
                lambda: self._record.write(version=server.version, kind=server.kind, shards=self._shards)
            )
            self._password = self._with_room(lambda: whole_password(self._folder))
            self._guardian_password = secrets.token_urlsafe(32)
            self._places = self._with_room(lambda: choose_places(self._listen, self._shards))
            self._with_room(self._write_configurations)
            self._guardian = self._with_room(lambda: self._start_guardian(server, lock))
        finally:
            os.close(lock)

    def stop(self) -> None:
        """Shut the servers down, their files synced, and wait until they are gone; harmless when stopped."""
        guardian, self._guardian = self._guardian, None
        if guardian is not None:
            end_guardian(guardian)
        if self._places:
            # A guardian that never started, or was killed, has left them.
            remove_sockets(self._places[0].socket.parent)

    def restart(self, index: int) -> None:
        """Stop one server gracefully and start it again: same socket, same files; waits until it answers.

        Raises ServerError when it does not come back.
        """
        before = self.pids[index]
        self._tell(str(index).encode())
        self._poll(
            lambda: read_state(self._folder, self._shards)["pids"][index] not in (before, None),
            index,
            START_LIMIT_S,
        )
        self._wait_ready(index)

    def add(self) -> str:
        """Start one more server, wait until it answers, and return its URL.

        Raises ServerError when it does not start, ServersStopped when `should_stop` says so.
        """
        index = self._shards
        port = free_ports(self._listen, 1)[0] if self._listen else 0
        socket = self._places[0].socket.with_name(f"{index}.sock")
        told = False
        self._places.append(Listening(socket, self._listen or "", port))
        self._shards += 1
        try:
            self._write_configurations()
            self._tell(ADD)
            told = True
            self._wait_ready(index, ADD_LIMIT_S)
            # Last: a record of more shards than the run has would refuse its next start.
            self._record.write(shards=self._shards)
        except BaseException:
            self._shards -= 1
            self._places.pop()
            if told:
                with contextlib.suppress(OSError, ServerError):
                    self._tell(REMOVE)
            raise
        return self.urls[index]

    def _tell(self, word: bytes) -> None:
        if self._guardian is None or self._guardian.stdin is None:
            raise ServerError("the embedded servers are not running")
        self._guardian.stdin.write(word + b"\n")
        self._guardian.stdin.flush()

    def _with_room(self, write: Callable[[], T]) -> T:
        return with_room(write, self._room_seconds, self._should_stop)

    def _write_configurations(self) -> None:
        for index, place in enumerate(self._places):
            folder = shard_folder(self._folder, index)
            folder.mkdir(mode=0o700, exist_ok=True)
            text = configuration(
                place,
                password=self._password,
                guardian_password=self._guardian_password,
                maxmemory=self._maxmemory,
                append_fsync=self._append_fsync,
            )
            # A file, because anybody on the machine can read a process' arguments.
            durable.replace(folder / CONFIGURATION, text.encode(), 0o600, synced=False)

    def _start_guardian(self, server: ServerBinary, lock: int) -> subprocess.Popen[bytes]:
        arguments = {
            "folder": self._folder,
            "sockets": self._places[0].socket.parent,
            "server": server.path,
            "shards": self._shards,
            "lock": lock,
            "owner": os.getpid(),
            "sync": int(self._append_fsync == "everysec"),
            "slack": self._rewrite_slack,
        }
        guardian = run_guardian(self._folder, arguments, lock)
        assert guardian.stdin is not None
        with contextlib.suppress(OSError):  # if it has ended, `_wait_ready` reports that
            guardian.stdin.write(f"{GUARDIAN} {self._guardian_password}\n".encode())
            guardian.stdin.flush()
        return guardian

    def _wait_ready(self, index: int, limit_s: float = START_LIMIT_S) -> None:
        """Wait until the server answers; while it loads its data that may take minutes."""
        client = redis.Redis.from_url(
            self.urls[index], socket_timeout=5.0, protocol=2, retry=Retry(NoBackoff(), 0)
        )
        exits, loading = sum(read_state(self._folder, self._shards)["exits"][index : index + 1]), False

        def ready() -> bool:
            nonlocal loading
            try:
                return bool(client.ping())
            except redis.exceptions.BusyLoadingError:
                loading = True
            except redis.RedisError:
                # A server that ended before it ever answered would only do so again.
                if read_state(self._folder, self._shards)["exits"][index] > exits:
                    self._fail(index)
            return False

        with contextlib.closing(client):
            # The guardian notes the process a moment after it started, or when the disk has room for that.
            self._poll((self._folder / "state.json").exists, index, max(limit_s, self._room_seconds))
            self._poll(lambda: any(self.pids[index : index + 1]), index, limit_s)
            self._poll(ready, index, lambda: LOAD_LIMIT_S if loading else limit_s)

    def _poll(self, ready: Callable[[], bool], index: int, limit_s: float | Callable[[], float]) -> None:
        began = time.monotonic()
        while not ready():
            assert self._guardian is not None
            limit = limit_s() if callable(limit_s) else limit_s
            if self._guardian.poll() is not None or time.monotonic() - began > limit:
                self._fail(index)
            if self._should_stop():
                raise ServersStopped(TOLD_TO_STOP)
            time.sleep(0.005)

    def _fail(self, index: int) -> NoReturn:
        """Raise why a server did not start; ServersStopped if the end of the run is why.

        Whoever ends all processes of a run may reach its servers before this one.
        """
        failure, began = self._failure(index), time.monotonic()
        while time.monotonic() - began < MEANT_SECONDS:
            if self._should_stop():
                raise ServersStopped(TOLD_TO_STOP)
            time.sleep(0.01)
        raise failure from None

    def _failure(self, index: int) -> ServerError:
        """Say what the server wrote before it ended, or the end of its log or a failed guardian's."""
        path, reason = shard_folder(self._folder, index) / "server.log", ""
        if self._guardian is not None and self._guardian.poll():
            path = self._folder / "guardian.log"
        else:
            reason = "".join(read_state(self._folder, self._shards).get("reasons", [])[index : index + 1])
        last = reason or last_line(path) or "nothing in its log"
        return ServerError(f"embedded server {index} did not start: {last[:200]} (see {path})")
