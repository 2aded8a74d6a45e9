"""Which folder a run's folder is: itself, under whatever name, or a copy of another.

A folder gets an id when it is made, noted together with its inode and its device. `mv` keeps them; a copy has
the id, but another inode, or the same one on another device. As a device's number may change when a machine
starts anew, it counts only until then.
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
    device: int
    boot: str
    """Of the machine, when this was noted."""

    def fits(self, folder: Path) -> bool:
        """Whether it was noted in this folder, and not in one that this was copied from."""
        now = _here(folder)
        same_device = self.device == now[1] or self.boot != now[2]
        return self.inode == now[0] and same_device

    @property
    def document(self) -> dict[str, Any]:
        """As it stands in identity.json, and in each record of something that lives."""
        return asdict(self)


def drawn_for(folder: Path) -> Identity:
    """A new identity for this folder; to be written to `FILE`."""
    return Identity(secrets.token_hex(8), *_here(folder))


def _here(folder: Path) -> tuple[int, int, str]:
    """Inode and device of a folder, zeros when it is not there, and this start of the machine."""
    try:
        status = folder.stat()
        boot = Path("/proc/sys/kernel/random/boot_id")
        return status.st_ino, status.st_dev, boot.read_text().strip() if boot.exists() else ""
    except OSError:
        return 0, 0, ""


def device_to_note(folder: Path) -> int | None:
    """The `device` with which the folder would count as itself, if it does not for its device's number alone.

    That is so for a copy by a snapshot, and for a folder on a file system that was mounted anew: who knows
    that it is the latter may note it in `FILE`.
    """
    noted, (inode, device, _) = noted_in(folder), _here(folder)
    return None if noted is None or noted.fits(folder) or noted.inode != inode else device


def noted_in(folder: Path) -> Identity | None:
    """What the folder says of itself; None for one of before, or whose file is damaged."""
    try:
        return Identity(**json.loads((folder / FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
