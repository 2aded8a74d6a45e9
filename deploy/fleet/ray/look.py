"""What a node says of itself, for `apexpert cluster check`.

This module is sent to the nodes as it is, so that one with another Apexpert, or with none, answers as well.
It therefore imports nothing but the standard library before the rest is needed.
"""

import errno
import fcntl
import os
import platform
import socket
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

SHARED, MISSING, UNLOCKED = "shared", "missing", "no locks"
"""What a node sees of the runs' folder: the asking node's file, none, or a lock on it that it could take."""


def look(probe: str, nonce: str, urls: Sequence[str]) -> dict[str, Any]:
    """Return what is found on this process's node, JSON-able.

    `probe`: a file in the runs' folder that the asking process holds a lock on, with the text `nonce`.
    `urls`: servers that have to answer, `@FILE` for those in a file of the node's own.
    """
    found: dict[str, Any] = {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "ray": _version("ray"),
        "apexpert": _version("apexpert"),
        "folder": _folder(Path(probe), nonce),
    }
    try:
        return found | _by_apexpert(urls)
    except Exception as error:  # Whatever a broken or an older installation raises.
        return found | {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _folder(probe: Path, nonce: str) -> str:
    """Return SHARED, MISSING or UNLOCKED, or another thing that is wrong."""
    try:
        with probe.open("r+") as file:
            if file.read() != nonce:
                return MISSING
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return UNLOCKED
    except BlockingIOError:
        return SHARED
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        # A file system without locks, such as one of objects.
        return UNLOCKED if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS) else str(error.strerror)


def _by_apexpert(urls: Sequence[str]) -> dict[str, Any]:
    """Return what Apexpert finds there."""
    from deploy.run.config import ConfigError, hide_password
    from deploy.run.machine.findings import open_files, python, shared_memory
    from deploy.run.metadata import commit, gpus
    from deploy.run.preflight import check_urls, named_urls

    redis = ""
    try:
        if urls:
            check_urls(named_urls(urls))
    except ConfigError as error:
        redis = hide_password(str(error))
    cards = gpus()
    return {
        "commit": commit(),
        "findings": [tuple(finding) for finding in (python(), shared_memory(), open_files())],
        "cores": len(os.sched_getaffinity(0)),
        "gpus": cards,
        "cuda": _cuda() if cards else "",
        "redis": redis,
    }


def _cuda() -> str:
    """Return the CUDA version that torch there is built for; empty if it is built for none."""
    # Not whether torch finds the GPU: Ray hides it from a task that has not asked for one.
    import torch

    return str(torch.version.cuda or "")
