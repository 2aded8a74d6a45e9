"""Embedded servers in a folder, their processes, and segments that are stored in them."""

from pathlib import Path

from replay.servers.embedded import EmbeddedServers
from replay.shards.shard import LOG_START, Shard
from replay.types import SegmentIdentity
from tests.helpers.runs.processes import is_alive
from tests.helpers.shards.servers import MEMORY, server_programs


def embedded(folder: Path, program: str, shards: int = 2, append_fsync: str = "everysec") -> EmbeddedServers:
    return EmbeddedServers(
        folder, shards=shards, append_fsync=append_fsync, maxmemory=MEMORY, server=server_programs()[program]
    )


def all_gone(pids: list[int]) -> bool:
    return not any(map(is_alive, pids))


def guardian_pid(servers: EmbeddedServers) -> int:
    assert servers._guardian is not None
    return servers._guardian.pid


def running(servers: EmbeddedServers) -> list[int]:
    pids = [pid for pid in servers.pids if pid is not None]
    assert len(pids) == len(servers.pids)
    return [guardian_pid(servers), *pids]


def fill(shard: Shard, count: int) -> set[SegmentIdentity]:
    identities = {SegmentIdentity(0, 0, seq) for seq in range(count)}
    for identity in identities:
        shard.writing.commit(identity, b"x" * 100, 1, 1)
    return identities


def stored(shard: Shard) -> set[SegmentIdentity | None]:
    identities = [entry.identity for entry in shard.read_log(LOG_START, 10**6)]
    assert None not in shard.fetch([identity for identity in identities if identity is not None])
    return set(identities)
