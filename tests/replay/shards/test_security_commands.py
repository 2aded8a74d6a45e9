"""The ACL user of docs/security.md on real servers: everything works as that user, who may nothing more."""

import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import redis

from replay.errors import ShardError, StaleOwner
from replay.segments.codec import encode
from replay.servers.configuration import CLIENT_COMMANDS, client_rules
from replay.servers.embedded import EmbeddedServers
from replay.shards.connect import connect_shards
from replay.shards.records import Owner
from replay.tools.archive import Archive, export_run, import_run
from replay.tools.inventory import take_inventory
from replay.tools.stored_shard import StoredShard
from replay.tools.verification import verify
from replay.writer import Writer
from tests.helpers.deadline import until
from tests.helpers.replay.samplers import Run, ingest_all, new_run
from tests.helpers.replay.streams import FRAME_SHAPE, random_stream
from tests.helpers.root import ROOT
from tests.helpers.shards.access import client_of
from tests.helpers.shards.commands import reserve
from tests.helpers.shards.servers import MEMORY, admit_tester, server_programs, url_of_tester

DOCUMENT = ROOT / "docs" / "security.md"
NOT_OURS = {"auth", "config", "config|resetstat"}
"""What a connection begins with (an ACL does not ask about it), and this test's own command."""
TOLD_ONLY = {"xdel"}
"""The owner deletes without waiting for the answers, and goes on where it may not."""


@pytest.fixture(scope="module")
def servers(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    folder = tmp_path_factory.mktemp(f"commands-{program}")
    server = server_programs()[program]
    with EmbeddedServers(
        folder, shards=2, append_fsync="everysec", maxmemory=MEMORY, server=server
    ) as started:
        admit_tester(started, folder)
        yield started


def used(clients: Sequence[redis.Redis]) -> set[str]:
    """Commands that the servers have done or refused since the last reset, `config|get` in its first word."""
    found = {name for client in clients for name in client.info("commandstats")}
    return {name.removeprefix("cmdstat_") for name in found} - NOT_OURS


def whole_cycle(urls: Sequence[str]) -> Run:
    """Everything that replay does on a server, once; returns the run, which is gone from the servers."""
    connect_shards(urls, run="cycle")
    run = new_run(urls, capacity=120)
    sampler = run.sampler(store_bytes=0)
    segments = run.fill(0, 60, actor=0)
    write_with_tickets(run)
    run.shards[1].writing.commit(segments[0].identity, encode(segments[0], run.name, run.signature), 16, 18)
    ingest_all(sampler)
    run.check(sampler, sampler.sample())
    state = sampler.state()
    run.fill(1, 200, actor=2)
    ingest_all(sampler)
    sampler.refresh_allowance(dead={(1, 0)})
    run.check(sampler, sampler.sample())
    again = run.sampler(store_bytes=0)
    again.restore(*state)
    with pytest.raises(StaleOwner):
        run.shards[0].owning.take(Owner(1, "stale"))
    look_from_outside(run)
    return run


def write_with_tickets(run: Run) -> None:
    """An actor writes; for the first segment it has to wait until it is allowed."""
    writer = Writer(run.shards, run=run.name, signature=run.signature)
    first, *others = run.record(random_stream(1, 90, frame_shape=FRAME_SHAPE), actor=1)
    for shard in run.shards:
        shard.owning.set_allowed(0)
    waiting = threading.Thread(target=writer.write, args=(first,))
    waiting.start()
    until(lambda: writer.counters.waited_s > 0, "a writer that waits")
    for shard in run.shards:
        shard.owning.set_allowed(10**9)
    waiting.join()
    for segment in others:
        writer.write(segment)
    writer.close()


def look_from_outside(run: Run) -> None:
    """Do what `apexpert replay` and its --delete do."""
    shards = [StoredShard(url, run=run.name, index=i) for i, url in enumerate(run.urls)]
    assert any(list(shard.entries()) for shard in shards)
    for shard in shards:
        shard.signature()
        assert all(shard.exist(list(shard.keys().segments)))
        shard.administration.info()
        shard.delete()
        assert not any(shard.keys())


def test_everything_runs_as_the_documented_user_and_needs_each_of_its_commands(
    servers: EmbeddedServers,
) -> None:
    """The commands done are those allowed: with one less it would fail, and one more is not needed."""
    testers = [client_of(url_of_tester(url)) for url in servers.urls]
    for client in testers:
        client.config_resetstat()
    for url in servers.urls:
        client_of(url).ping()
    whole_cycle(servers.urls)
    words = {command.partition("|")[0] for command in CLIENT_COMMANDS}
    assert {name.partition("|")[0] for name in used(testers)} == words
    for client in testers:
        assert all(not stat.get("rejected_calls") for stat in client.info("commandstats").values())


def password(servers: EmbeddedServers) -> str:
    return servers.urls[0].partition("@")[0].rpartition(":")[2]


def test_the_documented_line_makes_a_user_who_can_do_everything(servers: EmbeddedServers) -> None:
    line = re.search(r"^ACL SETUSER apexpert (.*)$", DOCUMENT.read_text(), re.MULTILINE)
    assert line is not None
    assert line[1] == f"reset on >PASSWORD {client_rules()}"
    for url in servers.urls:
        words = ["ACL", "SETUSER", "documented", *line[1].split()]
        client_of(url_of_tester(url)).execute_command(*words)
    urls = [
        url.replace("//apexpert:", "//documented:").replace(password(servers), "PASSWORD")
        for url in servers.urls
    ]
    whole_cycle(urls)


def everything_once(urls: Sequence[str], folder: Path) -> bool:
    """Own, write, draw, evict, look, check, move and delete, with nothing that could wait for ever.

    Returns whether the owner left the shards as it should.
    """
    for shard in connect_shards(urls, run="once"):
        shard.ping()
        shard.administration.info()
    run = new_run(urls, capacity=60)
    sampler = run.sampler(store_bytes=0)
    sampler.take_ownership()
    with pytest.raises(StaleOwner):
        run.shards[0].owning.take(Owner(1, "stale"))
    sampler.ingest()
    writer = Writer(run.shards, run=run.name, signature=run.signature)
    segments = run.record(random_stream(1, 200, frame_shape=FRAME_SHAPE), actor=1)
    for segment in segments:
        writer.write(segment, wait=False)
    reserve(run.shards[0], segments[0].identity, 16)
    run.shards[0].writing.ticket_state(segments[0].identity)
    run.shards[0].writing.drop_outstanding([segments[0].identity])
    ingest_all(sampler)
    assert sampler.metrics()["replay/evicted"] > 0
    sampler.refresh_allowance()
    run.check(sampler, sampler.sample())
    sampler.close()
    stored = [StoredShard(url, run=run.name, index=i) for i, url in enumerate(urls)]
    clean = not any([shard.has_owner_at_work() for shard in stored])
    clean = clean and take_inventory(stored).items == sampler.size and not verify(stored, run=run.name).wrong
    export_run(stored, folder, run=run.name)
    assert sum(shard.delete() for shard in stored) > 0
    import_run(Archive(folder), stored, run=run.name)
    assert sum(shard.delete() for shard in stored) > 0
    return clean


def urls_of_less(servers: EmbeddedServers, without: str) -> list[str]:
    """URLs of a user who may do everything but this command."""
    rules = [rule for rule in client_rules().split() if rule != f"+{without}"]
    for url in servers.urls:
        words = ["ACL", "SETUSER", "less", "reset", "on", ">pw", *rules]
        client_of(url_of_tester(url)).execute_command(*words)
    return [url.replace("//apexpert:", "//less:").replace(password(servers), "pw") for url in servers.urls]


def test_a_user_who_may_do_everything_gets_through(servers: EmbeddedServers, tmp_path: Path) -> None:
    assert everything_once(urls_of_less(servers, "nothing"), tmp_path / "out")


@pytest.mark.parametrize("command", CLIENT_COMMANDS)
def test_each_command_that_is_refused_is_told(
    servers: EmbeddedServers, tmp_path: Path, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    """In an error, or in a warning where the owner goes on."""
    raised = ""
    try:
        everything_once(urls_of_less(servers, command), tmp_path / "out")
    except ShardError as error:
        raised = str(error)
        assert "\n" not in raised
    lines = [raised, *(record.getMessage() for record in caplog.records)]
    said = [line for line in lines if "docs/security.md" in line and command in line.lower()]
    assert said, lines
    assert raised or command in TOLD_ONLY
