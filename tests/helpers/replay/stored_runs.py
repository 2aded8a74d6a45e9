"""Runs that are stored on servers, and all that they hold."""

from collections.abc import Sequence

import redis

from replay.tools.stored_shard import StoredShard
from tests.helpers.replay.samplers import Run, new_run


def stored_shards(run: Run) -> list[StoredShard]:
    return [StoredShard(url, run=run.name, index=i, retry_seconds=5.0) for i, url in enumerate(run.urls)]


def everything(urls: Sequence[str]) -> dict[tuple[int, bytes], object]:
    """All keys of the servers with their contents."""
    found: dict[tuple[int, bytes], object] = {}
    for place, url in enumerate(urls):
        with redis.Redis.from_url(url) as client:
            for name in client.scan_iter(match="apexpert:*"):
                last = name.rpartition(b":")[2]
                read = {b"log": client.xrange, b"outstanding": client.hgetall}.get(last, client.get)
                found[place, name] = read(name)
    return found


def filled(urls: Sequence[str]) -> Run:
    run = new_run(urls)
    for actor in range(4):
        segments = run.fill(actor % 2, 50 + actor, actor=actor)
        assert len(segments) > 2
    for shard in run.shards:
        shard.check_meta(run.signature)
    return run
