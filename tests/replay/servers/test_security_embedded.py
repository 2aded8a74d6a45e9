"""Embedded servers: who reaches them, what their user may do, and where their password is."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from replay.errors import ServerError, ShardError, ShardUnavailable
from replay.servers.configuration import CLIENT, CLIENT_COMMANDS
from replay.servers.embedded import EmbeddedServers
from replay.shards.shard import Shard
from replay.types import SegmentIdentity
from tests.helpers.shards.access import TwoMachines, client_of, files_with, said, seen_of_processes
from tests.helpers.shards.embedded import guardian_pid
from tests.helpers.shards.servers import MEMORY, server_programs

ONE = SegmentIdentity(0, 0, 1)
OWN_ADDRESS = "127.0.0.2"

FORBIDDEN = """
acl whoami|acl setuser x on|bgrewriteaof|bgsave|client kill 1.2.3.4:5|client list|client pause 1
config get *|config set dir /tmp|config rewrite|copy apexpert:a apexpert:b|debug sleep 0|del apexpert:a
dump apexpert:a|eval 0 0|evalsha 0 0|failover|flushall|flushdb|function list|keys *|latency latest
memory stats|migrate h 1 k 0 1|module list|module load /x.so|monitor|move apexpert:a 1|psync ? -1
publish a b|randomkey|rename apexpert:a apexpert:b|replconf listening-port 1|replicaof no one
restore apexpert:a 0 x|role|save|script load 0|script flush|select 1|shutdown nosave|slaveof no one
slowlog get|sort apexpert:a|subscribe a|swapdb 0 1|sync|wait 0 0
"""
"""Everything that could harm, spy on or leave the server, and what is simply not needed."""


def embedded(folder: Path, program: str = "valkey", listen: str | None = None) -> EmbeddedServers:
    server = server_programs()[program]
    return EmbeddedServers(
        folder, shards=2, append_fsync="everysec", maxmemory=MEMORY, server=server, listen=listen
    )


@pytest.fixture(scope="module")
def folder(program: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(f"security-{program}")


@pytest.fixture(scope="module")
def servers(folder: Path, program: str) -> Iterator[EmbeddedServers]:
    """Servers on sockets, for the tests that change nothing."""
    with embedded(folder, program) as started:
        yield started


@pytest.fixture(scope="module")
def listening(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """Servers on one of this machine's addresses."""
    with embedded(tmp_path_factory.mktemp(f"network-{program}"), program, OWN_ADDRESS) as started:
        yield started


def ports(servers: EmbeddedServers) -> list[tuple[str, int]]:
    connections = [c for pid in servers.pids for c in psutil.Process(pid).net_connections("inet")]
    return sorted(c.laddr for c in connections if c.status == psutil.CONN_LISTEN)


class TestOnSockets:
    def test_no_port_and_a_private_folder(self, servers: EmbeddedServers, folder: Path) -> None:
        assert ports(servers) == []
        for path in (folder, *folder.glob("shard-*")):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
        for path in (folder / "password", *folder.glob("shard-*/server.conf")):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path

    def test_the_password_is_in_its_file_alone(self, servers: EmbeddedServers, folder: Path) -> None:
        password = (folder / "password").read_bytes()
        assert len(password) >= 40
        Shard(servers.urls[0], run="r", index=0).writing.commit(ONE, b"x", 1, 1)
        assert files_with(password, folder) == [folder / "password"]
        assert b"--" in b"".join(seen_of_processes("cmdline"))  # they can be read
        assert not any(password in text for text in seen_of_processes("cmdline"))
        ours = [guardian_pid(servers), *servers.pids]
        assert not any(password in Path(f"/proc/{pid}/environ").read_bytes() for pid in ours)

    @pytest.mark.parametrize("command", re.split(r"[|\n]", FORBIDDEN.strip()))
    def test_what_is_not_needed_is_refused(self, servers: EmbeddedServers, command: str) -> None:
        with client_of(servers.urls[0]) as client:
            answer = said(client, command)
        assert re.search("no permissions|unknown command|command not allowed", answer, re.IGNORECASE), answer

    @pytest.mark.parametrize("key", ["other", "apexpert", "*", ""])
    def test_other_keys_are_refused(self, servers: EmbeddedServers, key: str) -> None:
        with client_of(servers.urls[0]) as client:
            for command in (f"get {key}", f"set {key} x", f"unlink {key}", f"xadd {key} * a b"):
                assert "permissions to access" in said(client, command)

    def test_nobody_else_gets_in(self, servers: EmbeddedServers) -> None:
        password = servers.urls[0].partition("@")[0].rpartition(":")[2]
        path = servers.urls[0].partition("@")[2]
        for user, secret, answer in [
            (None, None, "Authentication required"),
            (None, password, "invalid username-password"),
            ("default", password, "invalid username-password"),
            ("default", "", "invalid username-password"),
            (CLIENT, "", "invalid username-password"),
            (CLIENT, password[:-1], "invalid username-password"),
            ("other", password, "invalid username-password"),
        ]:
            client = client_of(unix_socket_path=path, username=user, password=secret)
            for command in ("ping", "info", "config get *"):
                assert answer in said(client, command), (user, secret)
        with pytest.raises(ShardError, match="refuses the user or password"):
            Shard(f"unix://apexpert:wrong@{path}", run="r", index=0).ping()

    def test_a_restart_and_a_second_start_keep_the_rules_and_the_data(
        self, program: str, tmp_path: Path
    ) -> None:
        for commits in (1, 2):
            with embedded(tmp_path, program) as servers:
                shard = Shard(servers.urls[0], run="r", index=0)
                shard.writing.commit(SegmentIdentity(0, 0, commits), b"x", 1, 1)
                servers.restart(0)
                assert len(shard.read_log("0-0", 10)) == commits
                with client_of(servers.urls[0]) as client:
                    assert "no permissions" in said(client, "flushall")


class TestOnTheNetwork:
    def test_on_that_address_alone(self, listening: EmbeddedServers) -> None:
        urls = [redis.connection.parse_url(url) for url in listening.urls]
        expected = sorted((OWN_ADDRESS, url["port"]) for url in urls)
        assert ports(listening) == expected
        assert {url["username"] for url in urls} == {CLIENT}
        for shard in (Shard(url, run="r", index=i) for i, url in enumerate(listening.urls)):
            shard.writing.commit(ONE, b"x", 1, 1)
            assert shard.fetch([ONE]) == [b"x"]
        elsewhere = listening.urls[0].replace(OWN_ADDRESS, "127.0.0.1")
        with pytest.raises(ShardUnavailable, match="refused"):
            Shard(elsewhere, run="r", index=0, retry_seconds=0.1).ping()

    def test_wrong_users_and_commands_are_refused(self, listening: EmbeddedServers) -> None:
        place = redis.connection.parse_url(listening.urls[0])
        where = {"host": place["host"], "port": place["port"]}
        assert "Authentication required" in said(client_of(**where), "ping")
        for user, secret in [(None, place["password"]), (CLIENT, "x"), ("root", place["password"])]:
            client = client_of(**where, username=user, password=secret)
            assert "invalid username-password" in said(client, "ping")
        client = client_of(**where, username=CLIENT, password=place["password"])
        assert said(client, "ping") == ""
        for command in ("flushall", "config get *", "keys *", "shutdown", "eval x 0", "get other"):
            assert "no permissions" in said(client, command).lower()

    def test_a_killed_server_comes_back_on_its_port(self, listening: EmbeddedServers) -> None:
        shard = Shard(listening.urls[1], run="killed", index=1)
        shard.writing.commit(ONE, b"x", 1, 1)
        psutil.Process(listening.pids[1]).kill()
        assert shard.fetch([ONE]) == [b"x"]

    @pytest.mark.parametrize(
        ("address", "message"),
        [
            ("0.0.0.0", "on one address, not on all"),
            ("::", "on one address, not on all"),
            ("localhost", "an IP address, not on 'localhost'"),
            ("203.0.113.9", "cannot listen on 203.0.113.9: Cannot assign"),
        ],
    )
    def test_addresses_that_are_refused(self, tmp_path: Path, address: str, message: str) -> None:
        with pytest.raises(ServerError, match=message):
            embedded(tmp_path, listen=address).start()

    @pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces are root's")
    def test_from_another_machine(self, tmp_path: Path) -> None:
        """Two network namespaces, as two machines: reached at the address, by its user, and not otherwise."""
        with TwoMachines() as (here, there):
            command = [*here, sys.executable, "-c", SERVE, str(tmp_path), "10.231.7.1"]
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout is not None
                url = process.stdout.readline().strip()
                tried = subprocess.run(
                    [*there, sys.executable, "-c", TRY, url], capture_output=True, text=True, check=True
                )
                process.communicate("\n")
        answers = json.loads(tried.stdout)
        assert answers["right"] == "PONG"
        assert "Authentication required" in answers["nobody"]
        assert "refused" in answers["other address"]


SERVE = """
import sys
from replay.servers.embedded import EmbeddedServers
folder, address = sys.argv[1:]
with EmbeddedServers(folder, shards=1, append_fsync="always", maxmemory=0, listen=address) as servers:
    print(servers.urls[0], flush=True)
    sys.stdin.readline()
"""
TRY = """
import json, sys
import redis
url = sys.argv[1]
def ask(url):
    try:
        redis.Redis.from_url(url, protocol=2, socket_timeout=5).ping()
        return "PONG"
    except redis.RedisError as error:
        return str(error)
nobody = "redis://" + url.rpartition("@")[2]
print(json.dumps({"right": ask(url), "nobody": ask(nobody), "other address": ask(url.replace(".1:", ".3:"))}))
"""


def test_every_command_of_the_user_is_known_to_the_server(servers: EmbeddedServers) -> None:
    """A misspelt or too new one would keep the server from starting, or be silently useless."""
    with client_of(servers.urls[0]) as client:
        for command in CLIENT_COMMANDS:
            answer = said(client, f"{command.replace('|', ' ')} x y").lower()
            assert "unknown command" not in answer
            assert "unknown subcommand" not in answer
