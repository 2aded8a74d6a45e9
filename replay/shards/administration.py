"""Administrative commands of a shard: which run it holds, and the state of its server."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replay.shards.shard import Shard


class ShardAdministration:
    """A shard as seen by commands that start, inspect and delete runs."""

    def __init__(self, shard: "Shard") -> None:
        self._shard = shard

    def is_used(self) -> bool:
        """Whether the shard holds any data of a run of this name."""
        # These keys are enough: whoever writes a segment writes its log as well.
        return bool(self._shard.call(lambda: self._shard.client.exists(*self._shard.run_keys)))

    def claim(self, folder_id: str) -> bool:
        """Note the folder that the run here belongs to; return False and change nothing if one is noted."""
        return bool(
            self._shard.call(lambda: self._shard.client.set(self._shard.folder_key, folder_id, nx=True))
        )

    def unclaim(self) -> None:
        """Delete the note of the folder."""
        self._shard.call(lambda: self._shard.client.unlink(self._shard.folder_key))

    def folder_id(self) -> str:
        """Return the id of the folder that the run here belongs to, empty if none is noted."""
        noted = self._shard.call(lambda: self._shard.client.get(self._shard.folder_key))
        # Bytes that are not UTF-8 become an id that no folder has.
        return (noted or b"").decode(errors="replace")

    def memory(self) -> tuple[int, int]:
        """Return the bytes used and the server's `maxmemory` (0: no limit)."""
        answer = self._shard.call(lambda: self._shard.client.info("memory"))
        return int(answer["used_memory"]), int(answer.get("maxmemory", 0))

    def command_stats(self) -> dict[str, tuple[int, int]]:
        """Return calls and microseconds of each command since the server started."""
        answer = self._shard.call(lambda: self._shard.client.info("commandstats"))
        return {
            name.removeprefix("cmdstat_"): (int(stats["calls"]), int(stats["usec"]))
            for name, stats in answer.items()
        }

    def info(self) -> dict[str, str | int]:
        """Return the address, the server with its version and run id, the log's length, and the memory."""
        server = self._shard.call(lambda: self._shard.client.info("server"))
        used, limit = self.memory()
        return {
            "address": self._shard.address,
            "server": str(server.get("server_name", "redis")),
            # Valkey also reports a `redis_version`, that of the Redis it is compatible with.
            "version": str(server.get("valkey_version") or server.get("redis_version", "unknown")),
            "run_id": str(server.get("run_id", "")),
            "log_length": int(self._shard.call(lambda: self._shard.client.xlen(self._shard.log))),
            "used_memory": used,
            "max_memory": limit,
        }
