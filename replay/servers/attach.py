"""Find the embedded servers of a run's folder from a process that did not start them."""

import contextlib
import json
import time
from pathlib import Path

from replay.errors import ServerError
from replay.servers.configuration import socket_url
from replay.servers.guardian import mark_of, shard_folder

WAIT_S = 10.0


def holds_data(folder: Path) -> bool:
    """Whether servers have ever run on this folder."""
    return (folder / "record.json").is_file() and shard_folder(folder, 0).is_dir()


def running_urls(folder: Path) -> tuple[str, ...]:
    """Return the URLs of the servers that another process runs on `folder`, password included: not for logs.

    Waits up to `WAIT_S` for servers that are being started; raises ServerError if there are none by
    then.
    """
    deadline = time.monotonic() + WAIT_S
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError):  # being written, or not yet there
            state = json.loads((folder / "state.json").read_text())
            # A copied folder brings the original's state along, which names the original's sockets.
            if state["folder"] != mark_of(folder):
                raise KeyError("of the folder that this one was copied from")
            sockets, password = Path(state["sockets"]), (folder / "password").read_text()
            paths = [sockets / f"{index}.sock" for index in range(len(state["pids"]))]
            if all(state["pids"]) and all(path.exists() for path in paths):
                return tuple(socket_url(str(path), password) for path in paths)
        if time.monotonic() > deadline:
            raise ServerError(f"the servers of {folder} are not up: the run is starting or ending; try again")
        time.sleep(0.05)
