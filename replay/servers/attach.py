"""Where the embedded servers of a run's folder listen, for those who did not start them."""

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
    """URLs of the servers that somebody else runs on `folder`, password included: not for logs.

    Waits a little for servers that are being started; raises ServerError when there are none then.
    """
    deadline = time.monotonic() + WAIT_S
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError):  # written at this moment, or not yet
            state = json.loads((folder / "state.json").read_text())
            if state["folder"] != mark_of(folder):
                raise KeyError("of the folder that this one was copied from")
            sockets, password = Path(state["sockets"]), (folder / "password").read_text()
            paths = [sockets / f"{index}.sock" for index in range(len(state["pids"]))]
            if all(state["pids"]) and all(path.exists() for path in paths):
                return tuple(socket_url(str(path), password) for path in paths)
        if time.monotonic() > deadline:
            raise ServerError(f"the servers of {folder} are not up: the run is starting or ending; try again")
        time.sleep(0.05)
