"""Where a command writes its files: found and checked before the work for them, and not made yet."""

import tempfile
from pathlib import Path

from deploy.run.config import ConfigError

PICTURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".eps")
"""Endings of pictures of curves, the usual one first."""


def file_target(flag: str, given: str, default: Path, endings: tuple[str, ...]) -> Path:
    """Return the file that the user's words stand for: `default` without any.

    A folder gets a file with the default's name, and a name without an ending the first of `endings`. Raises
    ConfigError, naming `flag`, for another ending, and for a file that cannot be written.
    """
    target = Path(given) if given else default
    if given and (target.is_dir() or given.endswith("/")):
        target /= default.name
    elif given and not target.suffix[1:2].isalpha():
        # In `run-1.5` the number is no ending.
        target = target.with_name(target.name + endings[0])
    elif given and target.suffix.lower() not in endings:
        raise ConfigError(f"{flag} {given}: must end in {' or '.join(endings)}, or name a folder")
    check_target(flag, target)
    return target


def check_target(flag: str, file: Path) -> None:
    """Raise ConfigError, naming `flag`, when the file cannot be written; its folder may be made later.

    Whether the disk has enough room shows only when it is written.
    """
    try:
        if file.exists():
            # Appending nothing asks for the right to write, and changes nothing.
            file.open("ab").close()
        else:
            # Where the folder, or the first of the folders to be made, would be.
            there = next(folder for folder in file.absolute().parents if folder.exists())
            tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise ConfigError(f"{flag}: {file}: {error.strerror or error}") from None
