"""What lies below the URL of an uploaded run, and which of it is whole.

    URL/RUN/owner.json                    which run's folder copies its checkpoints here
    URL/RUN/update-000012345.json         the manifest: written last, removed first
    URL/RUN/update-000012345.3f9a01c2/    its files, in a folder that no other upload ever uses

A manifest lists all files with size and SHA-256. What has none was interrupted, and counts for nothing.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self

from apexpert.errors import ApexpertError
from deploy.storage.place import Place
from learner.checkpoint_names import name_of

FORMAT = 1
OWNER = "owner.json"
CHECKPOINT = "checkpoint/"
"""Where a checkpoint's own files lie among those of an upload."""
MANIFEST = re.compile(r"update-(\d{9,})\.json")
FOLDER = re.compile(r"update-\d{9,}\.[0-9a-f]{8}")


class BrokenUpload(ApexpertError):
    """An upload is not whole; the message says why, in a few words."""


@dataclass(frozen=True)
class Upload:
    """The manifest of one uploaded checkpoint."""

    run: str
    """The configuration's `run.name`."""
    identity: str
    """Id of the folder that it was uploaded from, by which a user's own servers know the run."""
    update: int
    folder: str
    files: dict[str, dict[str, Any]]
    """Size and SHA-256 of each file, by its name below `folder`."""

    @property
    def name(self) -> str:
        """The name of its checkpoint."""
        return name_of(self.update)

    def to_json(self) -> bytes:
        """Return the manifest's bytes."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse a manifest; raise BrokenUpload when it is not one of this format."""
        try:
            document = json.loads(data)
            if (found := document.pop("format")) != FORMAT:
                raise BrokenUpload(f"its format is {found}, this version reads {FORMAT}")
            upload = cls(**document)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BrokenUpload("its manifest is not as it was written") from None
        if not FOLDER.fullmatch(upload.folder) or any(".." in name for name in upload.files):
            raise BrokenUpload("its manifest names other files than an upload has")
        return upload


def updates(names: list[str]) -> list[int]:
    """Return the updates that have a manifest among the `names` below a run's URL, newest first."""
    found = (MANIFEST.fullmatch(name) for name in names)
    return sorted((int(match[1]) for match in found if match), reverse=True)


def manifest_name(update: int) -> str:
    """Return the name of an upload's manifest."""
    return f"{name_of(update)}.json"


def read_upload(place: Place, update: int) -> Upload:
    """Read a manifest; raise BrokenUpload when it is gone or damaged, StorageError."""
    data = place.read(manifest_name(update))
    if data is None:
        raise BrokenUpload("its manifest is gone")
    return Upload.parse(data)


def folders(names: list[str]) -> Iterator[str]:
    """Yield the folders of uploads, whole or not, among the `names` below a run's URL."""
    return (name for name in names if FOLDER.fullmatch(name))
