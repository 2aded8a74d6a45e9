"""A full disk leaves a hole in a server's file, with which it does not start again; real servers."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from replay.append_only_file import complains, mend
from replay.servers import EmbeddedServers
from tests.helpers.deadline import until
from tests.helpers.faulty_servers import (
    Scribe,
    check_accounts,
    faulty_run,
    faulty_servers,
    ingest_until,
    quiet,
)
from tests.helpers.samplers import new_run
from tests.helpers.servers import server_programs


@pytest.mark.parametrize("program", sorted(server_programs()))
def test_after_a_full_disk_a_server_starts_again(tmp_path: Path, program: str) -> None:
    """Once its file was rewritten, a write that comes short leaves zeros behind (version 7 and later)."""
    with faulty_servers(tmp_path, 1, program=program) as servers:
        run = faulty_run(servers, segment_steps=8)
        sampler, scribe = run.sampler(), Scribe(run, 600)
        scribe.write(10)
        servers[0].client.bgrewriteaof()
        until(lambda: not servers[0].is_rewriting(), "a new file")
        scribe.write(10)
        servers[0].limit_file(servers[0].size + 200)
        until(servers[0].refuses, "the disk's end")
        servers[0].limit_file()
        until(lambda: not servers[0].refuses(), "room")
        scribe.write(10)
        quiet(sampler)
        servers[0].kill()
        log = tmp_path / "0" / "log"
        if not servers[0].starts():
            assert program == "valkey"
            assert complains(log)
            assert mend(log.parent) > 0
            assert mend(log.parent) == 0
            assert servers[0].starts()
        scribe.write(5)
        ingest_until(sampler, lambda: sampler.metrics()["replay/segments"] == 35, "everything")
        check_accounts(run, sampler, scribe.acknowledged, lost=0, unread=0, missing=0)


@pytest.mark.parametrize("rest", [b"", b"*", b"*1\r\n", b"*1\r\n$5\r\nMUL", b"*1\r\n$5\r\nMULTI\r\n"])
def test_only_holes_are_closed(tmp_path: Path, rest: bytes) -> None:
    """Zeros inside of a value stay, also after a line's end; what is behind a hole may be cut off."""
    value = b"\r\n" + bytes(9) + b"*x\r\n" + bytes(5)
    command = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%s\r\n" % (len(value), value)
    file = tmp_path / "appendonly.aof.1.incr.aof"
    content = command + bytes(700) + command + bytes(3) + rest
    file.write_bytes(content)
    assert mend(tmp_path) == 703
    assert file.read_bytes() == command + command + rest
    assert mend(tmp_path) == 0
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_without_room_for_a_second_file_everything_stays(tmp_path: Path) -> None:
    file = tmp_path / "appendonly.aof.1.incr.aof"
    content = b"*1\r\n$5\r\nMULTI\r\n" + bytes(9) + b"*1\r\n$4\r\nEXEC\r\n" * 10_000
    file.write_bytes(content)
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000));"
    code += " import sys; from replay.append_only_file import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot be mended: File too large" in done.stdout
    assert file.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_embedded_servers_mend_their_files(tmp_path: Path) -> None:
    options = {"shards": 1, "append_fsync": "everysec", "maxmemory": 64 * 1024**2}
    with EmbeddedServers(tmp_path / "replay", **options) as servers:
        run = new_run(servers.urls)
        segments = run.fill(0, 300, actor=0, end=0.0)
    file = max(tmp_path.rglob("appendonly*.incr.aof"))
    content = file.read_bytes()
    place = content.index(b"*1\r\n$5\r\nMULTI", len(content) // 2)
    file.write_bytes(content[:place] + bytes(1544) + content[place:])
    with EmbeddedServers(tmp_path / "replay", **options) as servers:
        again = new_run(servers.urls)
        again.name, again.items, again.segments = run.name, run.items, run.segments
        again.shards = again.shards_again()
        sampler = again.sampler()
        assert sampler.rebuild() == 300
        again.check(sampler, sampler.sample())
        sampler.close()
    assert file.read_bytes().startswith(content)
    assert "1544 bytes of zeros" in (tmp_path / "replay" / "shard-0" / "server.log").read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(segments) > 10
