"""Connect to all shards of a run by their URLs."""

from collections.abc import Callable, Sequence

from replay.errors import ShardError, ShardUnavailable
from replay.shards.shard import Shard


def connect_shards(
    urls: Sequence[str],
    *,
    run: str,
    retry_seconds: float = 30.0,
    missing: Callable[[ShardUnavailable], object] | None = None,
) -> list[Shard]:
    """Return one Shard per URL; raises ShardError if two URLs name the same server and database.

    A shard that does not answer raises ShardUnavailable. With `missing`, the error is passed to it
    and the shard left out, unless no shard answers.
    """
    shards = [Shard(url, run=run, index=index, retry_seconds=retry_seconds) for index, url in enumerate(urls)]
    homes: dict[str, Shard] = {}
    silent: dict[int, ShardUnavailable] = {}
    for shard in shards:
        try:
            # The server's own id sees through different names of one host; some managed servers hide it.
            own = {shard.address, _server_id(shard)}
        except ShardUnavailable as error:
            silent[shard.index], own = error, {shard.address}
        for home in own:
            # A shard has two names here, and must not be taken for another one.
            other = homes.setdefault(home, shard)
            if other is not shard:
                both = f"{other.address} and {shard.address}"
                raise ShardError(f"--replay.urls: {both} are the same server and database")
    for silence in silent.values():
        if missing is None or len(silent) == len(shards):
            raise silence
        missing(silence)
    return [shard for shard in shards if shard.index not in silent]


def _server_id(shard: Shard) -> str:
    try:
        run_id = shard.administration.info()["run_id"]
    except ShardUnavailable:
        raise
    except ShardError:
        return shard.address
    # Two databases of one server are two shards.
    return f"{run_id}/{shard.address.rpartition('/')[2]}" if run_id else shard.address
