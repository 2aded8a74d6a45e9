"""All shards of a run, from their URLs."""

from collections.abc import Sequence

from replay.errors import ShardError, ShardUnavailable
from replay.shard import Shard


def connect_shards(urls: Sequence[str], *, run: str, retry_seconds: float = 30.0) -> list[Shard]:
    """One Shard a URL; raises ShardError when two of them name the same server and database."""
    shards = [Shard(url, run=run, index=index, retry_seconds=retry_seconds) for index, url in enumerate(urls)]
    homes: dict[str, Shard] = {}
    for shard in shards:
        # The server's own id sees through different names of one host; some managed servers do not tell it.
        for home in {shard.address, _server_id(shard)}:
            other = homes.setdefault(home, shard)
            if other is not shard:
                both = f"{other.address} and {shard.address}"
                raise ShardError(f"--replay.urls: {both} are the same server and database")
    return shards


def _server_id(shard: Shard) -> str:
    try:
        run_id = shard.info()["run_id"]
    except ShardUnavailable:
        raise
    except ShardError:
        return shard.address
    return f"{run_id}/{shard.address.rpartition('/')[2]}" if run_id else shard.address
