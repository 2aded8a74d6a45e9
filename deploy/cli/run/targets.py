"""Files that a command writes in the end: that it cannot is found out before it works for them."""

import tempfile
from pathlib import Path

from deploy.run.config import ConfigError


def check_target(flag: str, file: Path) -> None:
    """Make the file's folder; ConfigError, naming `flag`, when the file cannot be written.

    Whether the disk has room for it shows only when it is written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            file.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise ConfigError(f"{flag}: {file}: {error.strerror or error}") from None
