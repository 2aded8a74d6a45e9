"""Append-only files that are well above the data are written anew when a server starts; real servers."""

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from replay.servers.append_only_rewrite import rewrite_if_bloated
from replay.servers.embedded import EmbeddedServers
from tests.helpers.deadline import patient, until
from tests.helpers.shards.access import client_of, files_with, said, seen_of_processes
from tests.helpers.shards.faulty_servers import FaultyServer, faulty_servers
from tests.helpers.shards.servers import MEMORY, server_programs

ANYBODY = "default x"
MEGABYTE = 1_000_000


@pytest.fixture
def server(program: str) -> Iterator[FaultyServer]:
    with (
        tempfile.TemporaryDirectory() as folder,
        faulty_servers(Path(folder), 1, program=program) as servers,
    ):
        yield servers[0]


def write(client: redis.Redis, *, times: int = 1) -> None:
    """100 KB of data, and as much in the file for each time."""
    for _ in range(times):
        for key in range(10):
            client.set(f"apexpert:{key}", os.urandom(5_000).hex())


def file_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("appendonly*") if path.is_file())


def rewrites(server: FaultyServer) -> bool:
    """Whether it is at it, or was."""
    info = server.client.info("persistence")
    return bool(info["aof_rewrite_in_progress"] or info["aof_last_rewrite_time_sec"] >= 0)


def test_the_file_stays_bounded_over_sessions(program: str, tmp_path: Path) -> None:
    folder, last = tmp_path / "shard-0", b""
    for session in range(4):
        if session:
            (folder / "temp-rewriteaof-99999.aof").touch()
        with EmbeddedServers(
            tmp_path,
            shards=1,
            append_fsync="everysec",
            maxmemory=MEMORY,
            server=server_programs()[program],
            rewrite_slack=200_000,
        ) as servers:
            client = client_of(servers.urls[0])
            if session:
                assert client.get("apexpert:1") == last
                until(lambda: file_size(folder) < 300_000, "a file of the size of the data")
                assert client.get("apexpert:1") == last
            write(client, times=10)
            last = client.get("apexpert:1")
        assert MEGABYTE < file_size(folder) < 1.5 * MEGABYTE
        assert list(folder.glob("temp-*")) == []


def test_only_a_file_well_above_the_data_is_written_anew(server: FaultyServer) -> None:
    write(server.client, times=20)
    assert rewrite_if_bloated(server.socket, ANYBODY, 2 * MEGABYTE)
    assert not rewrites(server)
    assert rewrite_if_bloated(server.socket, ANYBODY, MEGABYTE)
    assert rewrites(server)


def test_without_room_for_it_nothing_is_lost(server: FaultyServer) -> None:
    write(server.client, times=10)
    values = server.client.mget([f"apexpert:{key}" for key in range(10)])
    server.limit_file(50_000)
    assert rewrite_if_bloated(server.socket, ANYBODY, 0)
    until(
        lambda: server.client.info("persistence")["aof_last_bgrewrite_status"] == "err", "the rewrite's end"
    )
    assert file_size(server.folder) > MEGABYTE
    server.kill()
    server.start()
    assert server.client.mget([f"apexpert:{key}" for key in range(10)]) == values
    assert rewrite_if_bloated(server.socket, ANYBODY, 0)
    until(lambda: file_size(server.folder) < 300_000, "a file of the size of the data")


@pytest.mark.parametrize("answer", [b"", b"+OK\r\n$11\r\nloading:1\r\n\r\n", b"-NOPERM no\r\n"])
def test_a_server_that_cannot_say_yet_is_asked_again(answer: bytes) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as listener:
        where = Path(folder) / "s"
        assert not rewrite_if_bloated(where, ANYBODY, 0)  # nobody is there
        listener.bind(str(where))
        listener.listen()
        listener.settimeout(patient(30))

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(answer)
                connection.recv(1000)

        thread = threading.Thread(target=serve)
        thread.start()
        assert not rewrite_if_bloated(where, ANYBODY, 0)
        thread.join()


def test_the_guardians_user_may_do_nothing_else(program: str, tmp_path: Path) -> None:
    with EmbeddedServers(
        tmp_path, shards=1, append_fsync="always", maxmemory=MEMORY, server=server_programs()[program]
    ) as servers:
        password, path = servers._guardian_password, servers.urls[0].partition("@")[2]
        client = client_of(unix_socket_path=path, username="apexpert-guardian", password=password)
        assert said(client, "info") == ""
        for command in ("get apexpert:1", "set apexpert:1 x", "config get *", "flushall", "acl list", "ping"):
            assert "no permissions" in said(client, command).lower()
        assert files_with(password.encode(), tmp_path) == []
        assert not any(password.encode() in text for text in seen_of_processes("cmdline"))
        assert not any(password.encode() in text for text in seen_of_processes("environ"))
