"""A shard for people and checks: whose run it holds, and how its server is."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replay.shards.shard import Shard


class ShardAdministration:
    """A shard for those who start, inspect and delete runs."""

    def __init__(self, shard: "Shard") -> None:
        self._shard = shard

    def is_used(self) -> bool:
        """Whether anything of a run of this name is here."""
        keys = (
            self._shard.log,
            self._shard.meta_key,
            self._shard.reserved_key,
            self._shard.owner_key,
            self._shard.folder_key,
        )
        return bool(self._shard.call(lambda: self._shard.client.exists(*keys)))

    def claim(self, folder_id: str) -> bool:
        """Note the folder that the run here belongs to; False, and nothing changes, when one is noted."""
        return bool(
            self._shard.call(lambda: self._shard.client.set(self._shard.folder_key, folder_id, nx=True))
        )

    def unclaim(self) -> None:
        """Take the note of the folder away."""
        self._shard.call(lambda: self._shard.client.unlink(self._shard.folder_key))

    def folder_id(self) -> str:
        """The id of the folder that the run here belongs to; empty when none is noted."""
        noted = self._shard.call(lambda: self._shard.client.get(self._shard.folder_key))
        return (noted or b"").decode(errors="replace")

    def memory(self) -> tuple[int, int]:
        """Bytes used and the server's `maxmemory` (0: no limit)."""
        answer = self._shard.call(lambda: self._shard.client.info("memory"))
        return int(answer["used_memory"]), int(answer.get("maxmemory", 0))

    def command_stats(self) -> dict[str, tuple[int, int]]:
        """Calls and microseconds of each command since the server started."""
        answer = self._shard.call(lambda: self._shard.client.info("commandstats"))
        return {
            name.removeprefix("cmdstat_"): (int(stats["calls"]), int(stats["usec"]))
            for name, stats in answer.items()
        }

    def info(self) -> dict[str, str | int]:
        """Address, server and its version, its id, log length and memory, for people and checks."""
        server = self._shard.call(lambda: self._shard.client.info("server"))
        used, limit = self.memory()
        return {
            "address": self._shard.address,
            "server": str(server.get("server_name", "redis")),
            "version": str(server.get("valkey_version") or server.get("redis_version", "unknown")),
            "run_id": str(server.get("run_id", "")),
            "log_length": int(self._shard.call(lambda: self._shard.client.xlen(self._shard.log))),
            "used_memory": used,
            "max_memory": limit,
        }
