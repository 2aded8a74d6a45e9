"""Tells a run's folder, under whatever name, from a copy of it.

A folder gets an id when it is created, recorded together with its inode and its device. `mv` keeps all three;
a copy has the id, but another inode, or the same inode on another device. A device's number may change when a
machine reboots, so it only counts until then.
"""

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "identity.json"


@dataclass(frozen=True)
class Identity:
    """Properties that distinguish a folder from all others."""

    id: str
    """Random; also recorded in each shard on the user's own servers."""
    inode: int
    device: int
    boot: str
    """Boot id of the machine when this was recorded."""

    def fits(self, folder: Path) -> bool:
        """Whether it was recorded in this folder, and not in one that this folder was copied from."""
        now = _here(folder)
        # After a reboot the device may have another number, so only the inode counts then.
        same_device = self.device == now[1] or self.boot != now[2]
        return self.inode == now[0] and same_device

    @property
    def document(self) -> dict[str, Any]:
        """The identity as in identity.json, and in each record of something that lives."""
        return asdict(self)


def drawn_for(folder: Path) -> Identity:
    """Draw a new identity for this folder; to be written to `FILE`."""
    return Identity(secrets.token_hex(8), *_here(folder))


def adopted_by(folder: Path, identity_id: str) -> Identity:
    """Return an identity that makes this folder the one of that id, whose own is on another machine."""
    return Identity(identity_id, *_here(folder))


def _here(folder: Path) -> tuple[int, int, str]:
    """Return inode and device of a folder, zeros if it does not exist, and the machine's boot id."""
    try:
        status = folder.stat()
        boot = Path("/proc/sys/kernel/random/boot_id")
        return status.st_ino, status.st_dev, boot.read_text().strip() if boot.exists() else ""
    except OSError:
        return 0, 0, ""


def device_to_note(folder: Path) -> int | None:
    """Return the `device` that would make the folder count as itself, if only its device's number differs.

    That is the case for a copy by a snapshot, and for a folder on a file system that was mounted anew: a user
    who knows that it is the latter may write it to `FILE`.
    """
    noted, (inode, device, _) = noted_in(folder), _here(folder)
    return None if noted is None or noted.fits(folder) or noted.inode != inode else device


def noted_in(folder: Path) -> Identity | None:
    """Return the identity recorded in the folder; None for an old folder or a damaged file."""
    try:
        return Identity(**json.loads((folder / FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
