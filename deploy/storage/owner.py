"""Which folder's run copies its checkpoints to a URL: the one that was started last.

A run that is resumed from there on another machine takes the place over; the one before, should it still be
at work or be resumed later, stops copying and says so.
"""

import json
import secrets
import socket
import time
from typing import Any

from apexpert.errors import ApexpertError
from deploy.run.config import Config, ConfigError
from deploy.run.errors import RunBusy
from deploy.run.folder import RunFolder
from deploy.storage.layout import OWNER, updates
from deploy.storage.place import Place, StorageError

CLAIM = "uploads.json"
"""File of a run's folder: this start's claim to the place."""


class Superseded(ApexpertError):
    """Another machine has resumed the run and copies its checkpoints there; the message says which."""


def place_of(config: Config) -> Place:
    """Return where this run's checkpoints are copied to; raise ConfigError."""
    return Place(f"{config.run.checkpoints_to.rstrip('/')}/{config.run.name}")


def claim_place(folder: RunFolder, config: Config, *, new: bool) -> str:
    """Claim the place for the run that starts in `folder`; return a warning if it cannot be asked now.

    Raises ConfigError when a `new` run cannot use it, or another run of that name is there; RunBusy when the
    run was resumed elsewhere.
    """
    before = folder.read_json(CLAIM, None)
    own = {"id": secrets.token_hex(8), "since": time.time(), "host": socket.gethostname()}
    try:
        place = place_of(config)
        if new and updates(place.names()):
            raise ConfigError(
                f"--name {config.run.name}: {place.url} holds checkpoints of a run of that name; resume it"
                f" by: apexpert resume {place.url}; or choose another --name"
            )
        theirs = _owner(place)
        if not new and before and theirs and theirs["id"] != before["id"] and _later(theirs, before):
            raise RunBusy(
                f"{folder.name} was resumed from {place.url} on {_whom(theirs)}; resume that one:"
                f" apexpert resume {place.url}"
            )
        place.write(OWNER, [json.dumps(own).encode()])
    except StorageError as error:
        if new:
            raise ConfigError(f"--checkpoints-to {error}") from None
        folder.write_json(CLAIM, own)
        return f"{error}; the run goes on, and its checkpoints are copied there once it can be reached"
    except ConfigError as error:
        raise error if str(error).startswith("--") else ConfigError(f"--checkpoints-to {error}") from None
    folder.write_json(CLAIM, own)
    return ""


def check_claim(folder: RunFolder, place: Place) -> None:
    """Raise Superseded when the place belongs to a later start of the run; claim it from an earlier one.

    Raises StorageError.
    """
    own = folder.read_json(CLAIM, None) or {"id": "", "since": 0.0}
    theirs = _owner(place)
    if theirs is None or (theirs["id"] != own["id"] and not _later(theirs, own)):
        place.write(OWNER, [json.dumps(own).encode()])
    elif theirs["id"] != own["id"]:
        raise Superseded(f"the run goes on on {_whom(theirs)}")


def _owner(place: Place) -> dict[str, Any] | None:
    try:
        found = json.loads(place.read(OWNER) or b"null")
        return {"id": str(found["id"]), "since": float(found["since"]), "host": str(found["host"])}
    except (ValueError, KeyError, TypeError):
        return None


def _later(theirs: dict[str, Any], own: dict[str, Any]) -> bool:
    return bool(theirs["since"] > own["since"])


def _whom(owner: dict[str, Any]) -> str:
    return f"{owner['host']} since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(owner['since']))}"
