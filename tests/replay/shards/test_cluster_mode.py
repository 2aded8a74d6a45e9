"""Every command of a shard's life on a real server in cluster mode: keys of one shard lie in one slot."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from replay.tools.archive import Archive, export_run, import_run
from replay.tools.inventory import take_inventory
from replay.tools.stored_shard import StoredShard
from replay.tools.verification import verify
from tests.helpers.deadline import until
from tests.helpers.replay.samplers import Run, ingest_all, new_run
from tests.helpers.replay.stored_runs import stored_shards
from tests.helpers.shards.commands import reserve
from tests.helpers.shards.servers import fresh_run, server_programs

EVERY_SLOT = ("CLUSTER", "ADDSLOTSRANGE", 0, 16383)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that refuses commands whose keys lie in several slots."""
    folder = tmp_path_factory.mktemp("cluster")
    port = _free_port()
    lines = [f"port {port}", "bind 127.0.0.1", "cluster-enabled yes", f"dir {folder}", 'save ""']
    (folder / "server.conf").write_text("\n".join(lines))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([server_programs()["valkey"], folder / "server.conf"], stdout=log)
    client = redis.Redis(port=port)
    try:
        until(lambda: _answers(client), "the server")
        client.execute_command(*EVERY_SLOT)
        until(lambda: client.cluster("INFO")["cluster_state"] == "ok", "the cluster")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        client.close()
        process.terminate()
        process.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        # The cluster's own port is 10,000 higher and must exist.
        return int(probe.getsockname()[1]) % 20_000 + 30_000


def test_the_server_refuses_keys_of_two_shards_in_one_command(url: str) -> None:
    with redis.Redis.from_url(url) as client, pytest.raises(redis.ResponseError, match="same slot"):
        client.mget("apexpert:{run:0}:meta", "apexpert:{run:1}:meta")


def test_a_shards_whole_life(url: str, tmp_path: Path) -> None:
    run = new_run([url, url], capacity=300)
    sampler = run.sampler()
    for actor in range(8):
        run.fill(actor % 2, 60, actor=actor)
        ingest_all(sampler)
        batch = sampler.sample()
        run.check(sampler, batch)
    assert sampler.counters.evicted > 0
    for shard in run.shards:
        shard.check_meta(run.signature)
        identity = next(iter(run.segments))._replace(seq=999)
        reserve(shard, identity, 5)
        shard.writing.ticket_state(identity)
        shard.writing.drop_outstanding([identity])
    sampler.refresh_allowance()
    stored = stored_shards(run)
    assert take_inventory(stored).items == sampler.size
    assert not verify(stored, run=run.name).wrong
    export_run(stored, tmp_path / "out", run=run.name)
    copy = Run(run.urls, run.signature, run.config, name=fresh_run())
    import_run(Archive(tmp_path / "out"), stored_shards(copy), run=copy.name)
    assert take_inventory(stored_shards(copy)).items == sampler.size
    assert all(shard.delete() for shard in [*stored, *stored_shards(copy)])
    assert all(not any(StoredShard.keys(shard)) for shard in stored)
