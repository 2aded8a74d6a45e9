"""The life of embedded servers: starts, restarts, one more, private files, any path."""

import os
import shutil
import signal
import stat
import subprocess
import tempfile
from pathlib import Path

import psutil
import pytest

from replay.errors import ServerError
from replay.servers.guardian import ARGUMENTS, CONFIGURATION, Guardian
from replay.shards.connect import connect_shards
from replay.shards.shard import Shard
from tests.helpers.deadline import patient, until
from tests.helpers.shards.embedded import all_gone, embedded, fill, running, stored
from tests.helpers.shards.servers import server_programs


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

    @pytest.mark.parametrize("dies", [False, True])
    def test_a_failed_start_leaves_no_folder_of_sockets(
        self, program: str, tmp_path: Path, dies: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before the guardian has started, and where it ends before it wrote what it has started."""

        def run_guardian(*arguments: object) -> subprocess.Popen[bytes]:
            if not dies:
                raise BlockingIOError("no processes left")
            return subprocess.Popen(["false"], stdin=subprocess.PIPE)

        monkeypatch.setattr("replay.servers.embedded.run_guardian", run_guardian)
        with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
            monkeypatch.setattr("tempfile.tempdir", temporary)
            with pytest.raises(ServerError if dies else BlockingIOError):
                embedded(tmp_path, program, shards=1).start()
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
