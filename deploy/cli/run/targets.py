"""Checks early that a command can write its output files, before it does the work for them."""

import tempfile
from pathlib import Path

from deploy.run.config import ConfigError


def check_target(flag: str, file: Path) -> None:
    """Make the file's folder; raise ConfigError, naming `flag`, when the file cannot be written.

    Whether the disk has enough room shows only when it is written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            # Appending nothing asks for the right to write, and changes nothing.
            file.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise ConfigError(f"{flag}: {file}: {error.strerror or error}") from None
