"""The guardian of a folder's servers as others see it: started, its state, and where its servers listen."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from replay.errors import ServerError
from replay.servers.configuration import SOCKETS_PREFIX, socket_url
from replay.servers.guardian import mark_of, shard_folder

WAIT_S = 10.0
STOP_LIMIT_S = 40.0


def holds_data(folder: Path) -> bool:
    """Return whether servers have ever run on this folder."""
    return (folder / "record.json").is_file() and shard_folder(folder, 0).is_dir()


def run_guardian(folder: Path, arguments: dict[str, Any], lock: int) -> subprocess.Popen[bytes]:
    """Start a guardian's process, which holds the lock, and logs into the folder."""
    flags = [f"--{name}={value}" for name, value in arguments.items()]
    # -P: nothing of the current folder is imported. -S: no site packages, for a fast start.
    command = [sys.executable, "-P", "-S", "-m", "replay.servers.guardian", *flags]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with (folder / "guardian.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=folder,
            pass_fds=[lock],
            start_new_session=True,  # Ctrl-C in the owner's terminal does not reach it
        )


def end_guardian(guardian: subprocess.Popen[bytes]) -> None:
    """Have a guardian shut its servers down, and wait until they are gone."""
    assert guardian.stdin is not None
    with contextlib.suppress(OSError):
        guardian.stdin.close()
    try:
        guardian.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        guardian.kill()  # the kernel then ends the servers
        guardian.wait()


def read_state(folder: Path, num_servers: int) -> dict[str, Any]:
    """Read the last state of this folder's guardian; `pids` is None and `exits` 0 where there is none.

    A state.json that came with a copied folder is about the original's servers, and does not count.
    """
    with contextlib.suppress(OSError, ValueError, KeyError):
        state: dict[str, Any] = json.loads((folder / "state.json").read_text())
        if state["folder"] == mark_of(folder):
            return state
    return {"pids": [None] * num_servers, "exits": [0] * num_servers}


def clear_leftovers(folder: Path) -> None:
    """Remove the sockets' folder and the state of a guardian that was killed and could not."""
    remove_sockets(Path(read_state(folder, 0).get("sockets", "")))
    (folder / "state.json").unlink(missing_ok=True)


def remove_sockets(sockets: Path) -> None:
    """Remove a folder of sockets, if it is there."""
    # A state.json may name it, so nothing else is removed here.
    if sockets.name.startswith(SOCKETS_PREFIX):
        shutil.rmtree(sockets, ignore_errors=True)


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
