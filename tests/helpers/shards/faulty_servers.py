"""Real servers in a test's hands: killed, frozen, started again, and robbed of the end of their files."""

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
import redis

from replay.errors import WriterStopped
from replay.sampler import Sampler
from replay.servers.append_only_file import mend
from replay.shards.shard import Shard
from replay.types import Segment, SegmentIdentity
from replay.writer import Writer
from tests.helpers.deadline import patient, until
from tests.helpers.replay.samplers import Run, new_run
from tests.helpers.replay.streams import random_stream
from tests.helpers.shards.servers import server_programs


class FaultyServer:
    """One server on a UNIX socket with an append-only file, written before it answers (as embedded ones)."""

    def __init__(self, folder: Path, program: str = "valkey", **settings: Any) -> None:
        self.folder, self._program = folder, server_programs()[program]
        folder.mkdir(parents=True, exist_ok=True)
        self.socket = folder / "s"
        values = {
            "port": 0,
            "unixsocket": self.socket,
            "dir": folder,
            "appendonly": "yes",
            "appendfsync": "no",
            "aof-load-truncated": "yes",
            "save": '""',
            "logfile": folder / "log",
            "maxmemory-policy": "noeviction",
            **{name.replace("_", "-"): value for name, value in settings.items()},
        }
        (folder / "conf").write_text("".join(f"{name} {value}\n" for name, value in values.items()))
        self.url = f"unix://{quote(str(self.socket))}"
        self.client = redis.Redis(unix_socket_path=str(self.socket))
        self.process: subprocess.Popen[bytes] | None = None
        self._children: list[psutil.Process] = []
        self.start()

    def start(self) -> None:
        """Start it on its files, mended as the guardian does it, and wait until it answers."""
        if not self.starts():
            assert mend(self.folder)
            assert self.starts()

    def starts(self) -> bool:
        """Start it, and wait until it answers, or ends."""
        self.launch()
        until(lambda: self.answers() or not self.is_running, "a server that answers", 20.0)
        return self.is_running

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None

    def network_url(self, password: str) -> str:
        """Its URL where it has a port; it takes any password."""
        return f"redis://default:{password}@127.0.0.1:{self.client.config_get('port')['port']}"

    def launch(self) -> None:
        """Start it, and do not wait."""
        self.socket.unlink(missing_ok=True)
        # A write over the limit of a file's size is to fail, as on a full disk, and not to end the server.
        command = [self._program, str(self.folder / "conf")]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, restore_signals=False)

    def answers(self) -> bool:
        """Whether it takes commands."""
        with contextlib.suppress(redis.RedisError):
            return bool(self.client.ping())
        return False

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            self._children += psutil.Process(self.process.pid).children()
        self.process.kill()
        self.process.wait()
        self.client.connection_pool.disconnect()

    def end(self) -> None:
        """Leave nothing of it behind: a child that rewrites its file goes on after a kill."""
        if self.process is not None:
            self.thaw()
            self.kill()
        for child in self._children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(self._children)

    def freeze(self) -> None:
        """Stop the server: it keeps its connections and does nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server resume where it was."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def limit_file(self, size: int = psutil.RLIM_INFINITY) -> None:
        """Limit the size of its file, as a stand-in for the disk's end: past that it refuses every write."""
        assert self.process is not None
        psutil.Process(self.process.pid).rlimit(psutil.RLIMIT_FSIZE, (size, psutil.RLIM_INFINITY))

    def refuses(self) -> bool:
        """Whether it takes no writes because of its disk."""
        try:
            self.client.set("other", "x" * 100)
        except redis.ResponseError as error:
            return "MISCONF" in str(error)
        return False

    def is_rewriting(self) -> bool:
        """Whether it makes a new append-only file."""
        return bool(self.client.info("persistence")["aof_rewrite_in_progress"])

    @property
    def file(self) -> Path:
        """The append-only file that is written to."""
        return max(self.folder.rglob("appendonly*aof"), key=_number)

    def cut(self, size: int) -> None:
        """Take off what was written after the file had this size, as a power loss does (while it is down)."""
        os.truncate(self.file, size)

    @property
    def size(self) -> int:
        """Bytes of its file."""
        return self.file.stat().st_size


def _number(file: Path) -> int:
    """Of `appendonly.aof.10.incr.aof` 10; less than any for others (before version 7 there is one file)."""
    _, _, *rest = file.name.split(".")
    return int(rest[0]) if "incr" in rest else -1


@contextlib.contextmanager
def faulty_servers(
    folder: Path, count: int = 2, *, program: str = "valkey", **settings: Any
) -> Iterator[list[FaultyServer]]:
    """Servers that are gone at the end, whatever was done to them."""
    servers = [FaultyServer(folder / str(i), program, **settings) for i in range(count)]
    try:
        yield servers
    finally:
        for server in servers:
            server.end()


def faulty_run(servers: Sequence[FaultyServer], retry_seconds: float = 0.4, **changes: Any) -> Run:
    """A run on them whose sampler waits for an answer for so long."""
    run = new_run([server.url for server in servers], **changes)
    run.shards = shards_of(run, retry_seconds)
    return run


def shards_of(run: Run, retry_seconds: float = 0.4) -> list[Shard]:
    """Further connections to the run's shards."""
    return [Shard(url, run=run.name, index=i, retry_seconds=retry_seconds) for i, url in enumerate(run.urls)]


class Scribe:
    """A real writer in a thread, and what was acknowledged to it."""

    def __init__(
        self,
        run: Run,
        steps: int,
        *,
        actor: int = 0,
        retry_seconds: float = 0.4,
        pause: float = 0.0,
        **chances: Any,
    ) -> None:
        stream = random_stream(actor, steps, frame_shape=run.signature.frame_shape, **chances)
        self.segments: list[Segment] = run.record(stream, actor=actor)
        self.acknowledged: list[SegmentIdentity] = []
        self._stop, self._pause = threading.Event(), pause
        self.writer = Writer(
            shards_of(run, retry_seconds),
            run=run.name,
            signature=run.signature,
            first_shard=actor % len(run.urls),
            should_stop=self._stop.is_set,
        )
        self._thread: threading.Thread | None = None

    @property
    def done(self) -> bool:
        """Everything is acknowledged."""
        return len(self.acknowledged) == len(self.segments)

    def write(self, count: int | None = None, *, wait: bool = False) -> None:
        """Write the next segments (all, if None) here; without `wait` as if at the end, unallowed."""
        start = len(self.acknowledged)
        for segment in self.segments[start:] if count is None else self.segments[start : start + count]:
            self.writer.write(segment, wait=wait)
            self.acknowledged.append(segment.identity)
            self._stop.wait(self._pause)

    @contextlib.contextmanager
    def writing(self) -> Iterator["Scribe"]:
        """Write everything in a thread, which is stopped at the end."""
        self._thread = threading.Thread(target=self._write_all, daemon=True)
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join(patient(30))
            self.writer.close()

    def _write_all(self) -> None:
        with contextlib.suppress(WriterStopped):
            self.write(wait=True)


def ingest_until(sampler: Sampler, look: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Ingest until `look` is content."""
    return until(lambda: (sampler.ingest(), look())[1], what, seconds)


def quiet(sampler: Sampler) -> None:
    """Ingest until nothing comes any more."""
    calm = 0
    while calm < 3:
        calm = 0 if sampler.ingest() else calm + 1


def check_accounts(run: Run, sampler: Sampler, acknowledged: Iterable[SegmentIdentity], **known: int) -> None:
    """acknowledged = indexed + evicted + counted as lost; and some of the numbers by name."""
    quiet(sampler)
    values = {name.removeprefix("replay/"): int(value) for name, value in sampler.metrics().items()}
    items = sum(len(run.items[identity]) for identity in acknowledged)
    parts = {name: values[name] for name in ("size", "parked", "evicted", "lost", "unread")}
    assert items == sum(parts.values()), (items, parts)
    assert known == {name: values[name] for name in known}


def said(caplog: pytest.LogCaptureFixture, module: str, *texts: str) -> bool:
    """Whether a module has warned in a line with all these texts in it."""
    lines = [r.getMessage() for r in caplog.records if (r.name, r.levelno) == (module, logging.WARNING)]
    return any(all(text in line for text in texts) for line in lines)
