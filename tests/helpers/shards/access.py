"""Trying doors: what servers say to whom, what is seen of processes, and two machines out of one."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def client_of(url: str = "", **options: Any) -> redis.Redis:
    """A client that tries once, of a URL or of redis-py's options."""
    options |= {"protocol": 2, "socket_timeout": 5.0, "retry": Retry(NoBackoff(), 0)}
    options |= {"lib_name": None, "lib_version": None}
    return redis.Redis.from_url(url, **options) if url else redis.Redis(**options)


def said(client: redis.Redis, command: str) -> str:
    """Return the server's objection to a command, "" when it does it."""
    try:
        client.execute_command(*command.split(" "))  # type: ignore[no-untyped-call]
    except redis.RedisError as error:
        return str(error)
    return ""


def seen_of_processes(what: str) -> list[bytes]:
    """/proc/*/cmdline or environ of every process that can be looked at."""
    seen = []
    for path in Path("/proc").glob(f"[0-9]*/{what}"):
        try:
            seen.append(path.read_bytes())
        except OSError:
            continue  # it has ended, or is somebody else's
    return seen


def files_with(text: bytes, folder: Path) -> list[Path]:
    """Files below a folder that hold these bytes."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and text in _content(path))


def _content(path: Path) -> bytes:
    """A file's bytes; none of one that its program has removed meanwhile."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


class TwoMachines:
    """Two network namespaces joined by a wire: 10.231.7.1 and .3 on one, .2 on the other.

    As a context it gives the words that put a command on each. Needs root; skips where that is not enough.
    """

    def __enter__(self) -> tuple[list[str], list[str]]:
        self._names = [f"apexpert-{os.getpid()}-{place}" for place in "ab"]
        first, second = self._names
        try:
            for name in self._names:
                _ip(f"netns add {name}")
            _ip(f"link add veth0 netns {first} type veth peer name veth0 netns {second}")
            for name, addresses in ((first, (1, 3)), (second, (2,))):
                for last in addresses:
                    _ip(f"-n {name} addr add 10.231.7.{last}/24 dev veth0")
                _ip(f"-n {name} link set veth0 up")
                _ip(f"-n {name} link set lo up")
        except (OSError, subprocess.CalledProcessError) as error:
            self.__exit__()
            pytest.skip(f"no network namespaces here: {error}")
        return ["ip", "netns", "exec", first], ["ip", "netns", "exec", second]

    def __exit__(self, *error: object) -> None:
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, capture_output=True)
