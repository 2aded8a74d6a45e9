import os
import signal
import socket
import subprocess
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from replay.errors import ShardError, ShardFull, ShardUnavailable, SignatureMismatch, StaleOwner
from replay.servers.embedded import EmbeddedServers
from replay.shards.connect import connect_shards
from replay.shards.records import Owner, Ticket
from replay.shards.shard import LOG_START, Shard
from replay.types import SegmentIdentity
from tests.helpers.deadline import until
from tests.helpers.shards.commands import reserve
from tests.helpers.shards.servers import SIGNATURE, server_programs, shared_urls

ONE, TWO = SegmentIdentity(0, 0, 1), SegmentIdentity(0, 0, 2)


def names(shard: Shard) -> list[SegmentIdentity | None]:
    return [entry.identity for entry in shard.read_log(LOG_START, 1000)]


class TestCommands:
    def test_committed_segment_is_logged_and_stored_as_one(self, shards: list[Shard]) -> None:
        shard = shards[0]
        shard.writing.commit(ONE, b"0123456789", 4, 6)
        (entry,) = shard.read_log(LOG_START, 10)
        assert entry[1:] == (ONE, 4, 6, 10, 0)
        assert shard.read_log(entry.log_id, 10) == []
        assert shard.fetch([ONE, TWO]) == [b"0123456789", None]
        assert shard.fetch_ranges([(ONE, 2, 5), (TWO, 0, 3), (ONE, 9, 10)]) == [b"234", b"", b"9"]
        assert shards[1].fetch([ONE]) == [None]

    def test_log_is_read_in_order_and_by_count(self, shards: list[Shard]) -> None:
        identities = [SegmentIdentity(0, 0, seq) for seq in range(20)]
        for identity in identities:
            shards[0].writing.commit(identity, b"x", 1, 1)
        first = shards[0].read_log(LOG_START, 7)
        rest = shards[0].read_log(first[-1].log_id, 100)
        assert [entry.identity for entry in first + rest] == identities
        assert len(first) == 7

    def test_tickets_are_cumulative_and_end_with_the_commit(self, shards: list[Shard]) -> None:
        shard = shards[0]
        assert shard.tickets().allowed == 0
        assert reserve(shard, ONE, 5) == (5, False)
        assert reserve(shard, TWO, 7, attempt=3) == (12, False)
        assert set(shard.tickets().outstanding) == {Ticket(ONE, 5, 0, 5), Ticket(TWO, 7, 3, 12)}
        shard.owning.set_allowed(9)
        assert shard.writing.ticket_state(TWO) == (9, True)
        shard.writing.commit(ONE, b"x", 5, 5)
        assert shard.tickets() == (12, 9, (Ticket(TWO, 7, 3, 12),), 0)
        shard.writing.drop_outstanding([TWO])
        assert shard.writing.ticket_state(TWO) == (9, False)
        assert shard.tickets() == (12, 9, (), 0)

    def test_owner_is_who_took_it_last(self, shards: list[Shard]) -> None:
        shard, first, second = shards[0], Owner(1, "a"), Owner(2, "b")
        assert shard.owning.owner() == Owner()
        shard.owning.take(first)
        shard.owning.take(first)
        shard.owning.take(second)
        assert shard.owning.owner() == second
        for stale in (first, Owner(2, "c")):
            with pytest.raises(StaleOwner):
                shard.owning.take(stale)
        assert shard.owning.owner() == second

    @pytest.mark.parametrize(
        "fields",
        [
            {"id": "0.0.x", "n": 1, "s": 1, "b": 1},
            {"id": "0.0.-1", "n": 1, "s": 1, "b": 1},
            {"id": "0.0.01", "n": 1, "s": 1, "b": 1},
            {"id": b"\xff\xfe", "n": 1, "s": 1, "b": 1},
            {"id": "0.0.1", "n": 0, "s": 1, "b": 1},
            {"id": "0.0.1", "n": "9" * 5000, "s": 1, "b": 1},
            {"id": "0.0.1", "n": 1, "s": 1, "b": 1, "t": -4},
            {"n": 1, "s": 1, "b": 1},
            {"other": "thing"},
        ],
    )
    def test_foreign_log_entry_has_no_identity(
        self, shards: list[Shard], run_name: str, fields: dict[str, str]
    ) -> None:
        shards[0].client.xadd(f"apexpert:{{{run_name}:0}}:log", fields)
        (entry,) = shards[0].read_log(LOG_START, 10)
        assert entry[1:] == (None, 0, 0, 0, 0)

    def test_memory_and_info(self, shards: list[Shard], program: str) -> None:
        used, limit = shards[0].administration.memory()
        assert 0 < used < limit
        info = shards[0].administration.info()
        assert (info["server"], info["log_length"]) == (program.removesuffix("62"), 0)
        assert str(info["version"]).startswith("6.2" if program == "redis62" else ("8.", "9."))


class TestSignature:
    def test_may_be_lowered_never_raised(self, shards: list[Shard]) -> None:
        shard = shards[0]
        shard.check_meta(SIGNATURE)
        shard.check_meta(SIGNATURE)
        smaller = replace(SIGNATURE, stack=2, n_step=1)
        shard.check_meta(smaller)
        shard.check_meta(SIGNATURE)
        for change in ({"stack": 5}, {"n_step": 4}, {"num_actions": 3}, {"frame_shape": (6, 6)}):
            with pytest.raises(SignatureMismatch):
                shard.check_meta(replace(SIGNATURE, **change))
        shard.check_meta(smaller, writes=True)
        with pytest.raises(SignatureMismatch):
            shard.check_meta(SIGNATURE)

    def test_unreadable_signature_is_an_error_in_one_line(self, shards: list[Shard], run_name: str) -> None:
        shards[0].client.set(f"apexpert:{{{run_name}:0}}:meta", b'{"stack": []')
        with pytest.raises(ShardError, match="unreadable"):
            shards[0].check_meta(SIGNATURE)


class TestConnection:
    def test_same_server_and_database_twice_is_refused(self, program: str, tmp_path: Path) -> None:
        one, two = shared_urls(program)[:2]
        link = tmp_path / "link.sock"
        link.symlink_to(one.partition("@")[2])
        alias = one.replace(one.partition("@")[2], str(link))
        assert len(connect_shards([one, two], run="r")) == 2
        assert len(connect_shards([one, one + "?db=1"], run="r")) == 2
        for twice in ([one, one], [one, two, alias], [one + "?db=2", alias + "?db=2"]):
            with pytest.raises(ShardError, match="same server and database"):
                connect_shards(twice, run="r")

    @pytest.mark.parametrize("url", ["http://h", "redis://h:port", "nonsense", "redis://h?socket_timeout=x"])
    def test_unusable_url_is_one_line(self, url: str) -> None:
        with pytest.raises(ShardError, match=r"shard 0: not a usable .* URL$"):
            Shard(url, run="r", index=0)

    @pytest.mark.parametrize("url", ["redis://me:S3cret@localhost:1/2", "unix://:S3cret@/nowhere/s.sock"])
    def test_unreachable_server_is_bounded_and_keeps_secrets(self, url: str) -> None:
        shard = Shard(url, run="r", index=0, retry_seconds=0.3)
        with pytest.raises(ShardUnavailable) as caught:
            shard.ping()
        assert shard.retries > 0
        for text in (str(caught.value), repr(caught.value), repr(shard), shard.address):
            assert "S3cret" not in text
            assert "\n" not in text

    def test_who_has_no_time_any_more_shortens_a_wait_that_is_under_way(self) -> None:
        shard = Shard("unix:///nowhere/s.sock", run="r", index=0, retry_seconds=10_000)

        def shorten() -> None:
            until(lambda: shard.retries > 0, "a wait")
            shard.retry_seconds = 0.01

        thread = threading.Thread(target=shorten)
        thread.start()
        with pytest.raises(ShardUnavailable):
            shard.ping()
        thread.join()

    def test_wrong_password_is_refused_at_once(self, program: str) -> None:
        url = "unix://:Wr0ng@" + shared_urls(program)[0].partition("@")[2]
        with pytest.raises(ShardError, match="refuses the user or password") as caught:
            Shard(url, run="r", index=0, retry_seconds=60).ping()
        assert "Wr0ng" not in str(caught.value)

    def test_url_cannot_turn_bytes_into_text(self, program: str) -> None:
        shard = Shard(shared_urls(program)[0] + "?decode_responses=True", run="bytes", index=0)
        shard.writing.commit(ONE, b"\xff\x00", 1, 1)
        assert shard.fetch([ONE]) == [b"\xff\x00"]


def test_full_server_says_so_and_can_be_emptied(program: str, tmp_path: Path) -> None:
    path = server_programs()[program]
    with EmbeddedServers(
        tmp_path, shards=1, append_fsync="everysec", maxmemory=6 * 1024**2, server=path
    ) as servers:
        shard = Shard(servers.urls[0], run="r", index=0)

        def fill() -> None:
            for seq in range(1000):
                shard.writing.commit(SegmentIdentity(0, 0, seq), os.urandom(50_000), 8, 8)

        with pytest.raises(ShardFull, match=r"is full: [ -~]*$"):
            fill()
        # Everything that makes room, or looks, works in a full server.
        entries = shard.read_log(LOG_START, 1000)
        assert shard.tickets().reserved == 0
        shard.writing.drop_outstanding([ONE])
        link = shard.new_pipeline()
        request = shard.owning.deletion([entry[:2] for entry in entries[: len(entries) // 2]])
        assert not any(isinstance(answer, Exception) for answer in link.answer(request))
        shard.writing.commit(ONE, b"x", 1, 1)
        shard.close()


def test_tcp_tls_and_names(program: str) -> None:
    for url, address in {
        "redis://u:p@Host.example:7000/3": "redis://host.example:7000/3",
        "rediss://u:p@h": "rediss://h:6379/0",
        "unix://u:p@/a b/c.sock?db=4": "unix:///a%20b/c.sock/4",
    }.items():
        assert Shard(url, run="r", index=0).address == address
    with pytest.raises(ShardError, match="run name"):
        Shard("redis://h", run="a{b}", index=0)


def test_tcp_server_of_the_users_own(program: str, tmp_path: Path) -> None:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = tmp_path / "own.conf"
    configuration.write_text(f"bind 127.0.0.1\nport {port}\nrequirepass pw\ndir {tmp_path}\n")
    command = [server_programs()[program], str(configuration)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            url = f"redis://:pw@127.0.0.1:{port}"
            shards = connect_shards([f"{url}/0", f"{url}/1"], run="r")
            shards[0].writing.commit(ONE, b"zero", 1, 1)
            shards[1].writing.commit(ONE, b"one", 1, 1)
            assert [shard.fetch([ONE]) for shard in shards] == [[b"zero"], [b"one"]]
            with pytest.raises(ShardError, match="same server and database"):
                connect_shards([url, f"redis://:pw@localhost:{port}/0"], run="r")
        finally:
            server.kill()


def test_interrupted_connections_are_transparent(shards: list[Shard], program: str) -> None:
    shard = shards[0]
    shard.writing.commit(ONE, b"x", 1, 1)
    other = Shard(shared_urls(program)[0], run="other", index=0)
    for _ in range(5):
        assert other.client.client_kill_filter(_id=shard.client.client_id()) == 1
        assert shard.fetch([ONE]) == [b"x"]


def test_stopped_server_is_waited_for(program: str, tmp_path: Path) -> None:
    path = server_programs()[program]
    with EmbeddedServers(tmp_path, shards=1, append_fsync="always", maxmemory=0, server=path) as servers:
        shard = Shard(servers.urls[0], run="r", index=0)
        shard.writing.commit(ONE, b"x", 1, 1)
        pid = servers.pids[0]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert shard.fetch([ONE]) == [b"x"]
        assert shard.retries > 0
