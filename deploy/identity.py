"""Which folder a run's folder is: itself, under whatever name, or a copy of another.

A folder gets an id when it is made, noted together with its inode. `mv` keeps both; a copy has the id, but an
inode of its own. The device's number is left out: it may change when a machine starts anew.
"""

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "identity.json"


@dataclass(frozen=True)
class Identity:
    """What tells a folder from all others."""

    id: str
    """Random; also noted in each shard on servers of the user's own."""
    inode: int

    @property
    def document(self) -> dict[str, Any]:
        """As it stands in identity.json, and in each record of something that lives."""
        return asdict(self)


def inode_of(folder: Path) -> int:
    """The inode that the folder has now; 0 when it is not there."""
    try:
        return folder.stat().st_ino
    except OSError:
        return 0


def drawn_for(folder: Path) -> Identity:
    """A new identity for this folder; to be written to `FILE`."""
    return Identity(secrets.token_hex(8), inode_of(folder))


def noted_in(folder: Path) -> Identity | None:
    """What the folder says of itself; None for one of before, or whose file is damaged."""
    try:
        return Identity(**json.loads((folder / FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
