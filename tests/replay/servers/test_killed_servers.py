"""Embedded servers whose processes are killed or told to end, at work and at their start."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from replay.errors import ServerError, ServersStopped
from replay.servers.embedded import EmbeddedServers
from replay.shards.shard import Shard
from replay.types import SegmentIdentity
from tests.helpers.deadline import until
from tests.helpers.shards.embedded import all_gone, embedded, fill, running, stored
from tests.helpers.shards.servers import MEMORY, server_programs

OWNER = """
import sys, time
from replay.servers.embedded import EmbeddedServers
servers = EmbeddedServers(sys.argv[1], shards=2, append_fsync="everysec", maxmemory=0, server=sys.argv[2])
print(*servers.start(), servers._guardian.pid, *servers.pids, flush=True)
time.sleep(600)
"""


class TestKills:
    @pytest.mark.parametrize("append_fsync", ["everysec", "always"])
    def test_killed_server_comes_back_with_all_that_was_acknowledged(
        self, program: str, tmp_path: Path, append_fsync: str
    ) -> None:
        with embedded(tmp_path, program, append_fsync=append_fsync) as servers:
            shard = Shard(servers.urls[0], run="r", index=0)
            acknowledged: list[SegmentIdentity] = []
            enough = threading.Event()

            def write() -> None:
                while not enough.is_set():
                    identity = SegmentIdentity(0, 0, len(acknowledged))
                    shard.writing.commit(identity, os.urandom(3000), 1, 1)
                    acknowledged.append(identity)

            writer = threading.Thread(target=write)
            writer.start()
            for kill in range(3):
                until(lambda kill=kill: len(acknowledged) > 100 * (kill + 1), "segments between the kills")  # type: ignore[misc]
                pid = until(lambda: servers.pids[0], "a server")
                os.kill(pid, signal.SIGKILL)
                until(lambda pid=pid: servers.pids[0] not in (pid, None), "another server")  # type: ignore[misc]
            enough.set()
            writer.join()
            assert stored(shard) == set(acknowledged)
            assert shard.retries >= 3

    def test_killed_owner_leaves_nothing_and_the_folder_starts_again(
        self, program: str, tmp_path: Path
    ) -> None:
        command = [sys.executable, "-c", OWNER, str(tmp_path), server_programs()[program]]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
            try:
                assert owner.stdout is not None
                url, _, *pids = owner.stdout.readline().split()
                written = fill(Shard(url, run="r", index=0), 30)
                with pytest.raises(ServerError, match=f"in use by the servers of process {owner.pid}$"):
                    embedded(tmp_path, program).start()
            finally:
                owner.kill()
        with embedded(tmp_path, program) as servers:
            assert all_gone([int(pid) for pid in pids])
            assert stored(Shard(servers.urls[0], run="r", index=0)) == written

    def test_killed_guardian_takes_the_servers_along(self, program: str, tmp_path: Path) -> None:
        servers = embedded(tmp_path, program)
        servers.start()
        guardian, *pids = running(servers)
        os.kill(guardian, signal.SIGKILL)
        until(lambda: all_gone(pids), "the servers' end", seconds=10)
        sockets = Path(servers.urls[0].partition("@")[2]).parent
        servers.stop()
        with servers:
            assert all(running(servers))
        assert not sockets.exists()

    def test_guardian_told_to_end_stops_all(self, program: str, tmp_path: Path) -> None:
        servers = embedded(tmp_path, program)
        servers.start()
        pids = running(servers)
        os.kill(pids[0], signal.SIGTERM)
        servers.stop()
        assert all_gone(pids)


def test_whoever_does_not_want_to_wait_is_not_made_to(tmp_path: Path) -> None:
    asked: list[int] = []
    servers = EmbeddedServers(
        tmp_path,
        shards=1,
        append_fsync="everysec",
        maxmemory=MEMORY,
        should_stop=lambda: asked.append(1) or True,
    )
    with pytest.raises(ServersStopped):
        servers.start()
    assert asked
    assert not servers.alive
    until(
        lambda: (
            not any(
                str(tmp_path) in " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])
            )
        ),
        "its end",
    )


@pytest.mark.parametrize("victim", ["guardian", "server"])
@pytest.mark.parametrize("told", [True, False])
def test_who_ends_all_processes_may_reach_the_servers_before_their_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str, told: bool
) -> None:
    asked_at: list[float] = []

    def should_stop() -> bool:
        """Told some time after the servers were."""
        asked_at.append(time.monotonic())
        return told and time.monotonic() - asked_at[0] > 0.3

    start = EmbeddedServers._start_guardian

    def dies(*arguments: Any) -> subprocess.Popen[bytes]:
        guardian = start(*arguments)
        guardian.terminate()
        guardian.wait()
        return guardian

    program = server_programs()["valkey"]
    if victim == "guardian":
        monkeypatch.setattr(EmbeddedServers, "_start_guardian", dies)
    else:
        monkeypatch.setattr(
            "replay.servers.embedded.configuration", lambda *_, **__: "no configuration at all\n"
        )
    servers = EmbeddedServers(
        tmp_path, shards=1, append_fsync="everysec", maxmemory=0, server=program, should_stop=should_stop
    )
    with pytest.raises(ServersStopped if told else ServerError):
        servers.start()
    assert not servers.alive
