"""A full disk leaves a hole in a server's file, with which it does not start again; real servers."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from replay.servers.append_only_file import complains, mend, was_full
from replay.servers.embedded import EmbeddedServers
from tests.helpers.deadline import until
from tests.helpers.replay.samplers import new_run
from tests.helpers.shards.faulty_servers import (
    FaultyServer,
    Scribe,
    check_accounts,
    faulty_run,
    faulty_servers,
    ingest_until,
    quiet,
)
from tests.helpers.shards.servers import server_programs


@pytest.mark.parametrize("program", sorted(server_programs()))
def test_after_a_full_disk_a_server_starts_again(tmp_path: Path, program: str) -> None:
    """Once its file was rewritten, a write that comes short leaves zeros behind (version 7 and later)."""
    with faulty_servers(tmp_path, 1, program=program) as servers:
        run = faulty_run(servers, segment_steps=8)
        sampler, scribe = run.sampler(), Scribe(run, 600)
        scribe.write(10)
        _write_anew(servers[0])
        scribe.write(10)
        _fill_disk(servers[0])
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


@pytest.mark.parametrize("program", sorted(server_programs()))
def test_a_new_file_after_a_full_disk_survives_the_next_one(tmp_path: Path, program: str) -> None:
    """Without it the next one takes bytes of commands that were acknowledged."""
    with faulty_servers(tmp_path, 1, program=program) as servers:
        run = faulty_run(servers, segment_steps=8)
        sampler, scribe = run.sampler(), Scribe(run, 600)
        _write_anew(servers[0])
        seen = 0
        for _ in range(3):
            scribe.write(10)
            _fill_disk(servers[0])
            full, seen = was_full(tmp_path / "0" / "log", seen)
            assert full
            assert was_full(tmp_path / "0" / "log", seen) == (False, seen)
            _write_anew(servers[0])
        quiet(sampler)
        servers[0].kill()
        servers[0].start()
        scribe.write(5)
        ingest_until(sampler, lambda: sampler.metrics()["replay/segments"] == 35, "everything")
        check_accounts(run, sampler, scribe.acknowledged, lost=0, unread=0, missing=0)


def test_a_server_whose_disk_was_full_twice_starts_again(tmp_path: Path) -> None:
    """With one file for both: what the second time cut into is gone, and counted; the rest is there."""
    with faulty_servers(tmp_path, 1, program="valkey") as servers:
        run = faulty_run(servers, segment_steps=8)
        sampler, scribe = run.sampler(), Scribe(run, 600)
        _write_anew(servers[0])
        for _ in range(2):
            scribe.write(10)
            _fill_disk(servers[0])
        scribe.write(10)
        quiet(sampler)
        servers[0].kill()
        assert not servers[0].starts()
        assert mend(tmp_path / "0") > 0
        assert servers[0].starts()
        again = run.sampler()
        again.rebuild()
        lost = set(scribe.acknowledged) - set(again.table.slot_of)
        # The newest of what was there when it was full for the second time.
        assert lost
        assert lost < set(scribe.acknowledged[10:20])
        for _ in range(5):
            run.check(again, again.sample())


def _write_anew(server: FaultyServer) -> None:
    assert server.client.bgrewriteaof()
    until(lambda: not server.is_rewriting(), "a new file")


def _fill_disk(server: FaultyServer) -> None:
    """No room for a while, in the middle of a write."""
    server.limit_file(server.size + 2_000)
    server.client.set("other", "x" * 4_000)
    until(server.refuses, "the disk's end")
    server.limit_file()
    until(lambda: not server.refuses(), "room")


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


@pytest.mark.parametrize("cut", [1, 20, 60, 98])
def test_what_was_cut_into_by_a_hole_goes(tmp_path: Path, cut: int) -> None:
    """A transaction with an end missing, wherever, and nothing else."""
    pair = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9\r\n" + bytes(9) + b"\r\n"
    transaction = b"*1\r\n$5\r\nMULTI\r\n" + 2 * pair + b"*1\r\n$4\r\nEXEC\r\n"
    file = tmp_path / "appendonly.aof.1.incr.aof"
    for end in (transaction, b"", transaction[:cut]):
        file.write_bytes(pair + transaction + transaction[:-cut] + bytes(99) + end)
        assert mend(tmp_path) == len(transaction) - cut + 99
        assert file.read_bytes() == pair + transaction + end
    file.write_bytes(pair + pair[:-3] + bytes(99) + pair)
    mend(tmp_path)
    assert file.read_bytes() == pair + pair


def test_a_snapshot_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "appendonly.aof"
    file.write_bytes(b"REDIS0009" + bytes(99) + b"*1\r\n$5\r\nMULTI\r\n")
    assert mend(tmp_path) == 0


def test_without_room_for_a_second_file_everything_stays(tmp_path: Path) -> None:
    file = tmp_path / "appendonly.aof.1.incr.aof"
    content = b"*1\r\n$5\r\nMULTI\r\n" + bytes(9) + b"*1\r\n$4\r\nEXEC\r\n" * 10_000
    file.write_bytes(content)
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000));"
    code += " import sys; from replay.servers.append_only_file import main; sys.exit(main())"
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


def test_an_embedded_server_whose_disk_was_full_begins_a_new_file(tmp_path: Path) -> None:
    options = {"shards": 1, "append_fsync": "everysec", "maxmemory": 64 * 1024**2}
    with EmbeddedServers(tmp_path / "replay", **options):
        folder = tmp_path / "replay" / "shard-0"
        before = max(folder.rglob("appendonly*.incr.aof"))
        with (folder / "server.log").open("a") as log:
            log.write("AOF write error looks solved. The server can write again.\n")
        until(lambda: before not in set(folder.rglob("appendonly*.incr.aof")), "a new file")
