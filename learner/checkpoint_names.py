"""Names of checkpoints' folders and of their document: whoever only looks at them need not wait for torch."""

import re
from pathlib import Path

# A `.replaced` folder is the older checkpoint of the same update; only a crash between two renames leaves it.
NAME = re.compile(r"update-(\d{9,})(\.replaced)?")
DOCUMENT = "document.json"
"""File of a checkpoint that says where the run was."""


def name_of(update: int) -> str:
    """Return the name of the folder of an update's checkpoint."""
    return f"update-{update:09d}"


def number_of(path: Path) -> int:
    """Return the update of a checkpoint by its folder's name; ValueError for another folder."""
    found = NAME.fullmatch(path.name)
    if found is None:
        raise ValueError(f"{path.name}: not the name of a checkpoint")
    return int(found[1])


def newest_first(folder: Path) -> list[Path]:
    """Return the folders of all checkpoints, whole or not; of one update, `.replaced` comes last."""
    found = [path for path in folder.glob("update-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (number_of(path), not path.suffix), reverse=True)
