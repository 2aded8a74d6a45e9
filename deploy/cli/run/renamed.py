"""A run whose folder got another name while it is at work: its roles know the old one, and write there."""

import shlex
from pathlib import Path

from deploy.run.errors import RunError
from deploy.run.folder import RunFolder


def renamed(folder: RunFolder) -> str:
    """What has happened to a folder that was renamed while its run is at work, and what to do; else empty."""
    from deploy.fleet.run_state import path_at_start

    before = Path(path_at_start(folder))
    if not folder.is_supervised() or (before.exists() and before.samefile(folder.path)):
        return ""
    link = f"ln -sT {shlex.quote(str(folder.path))} {shlex.quote(str(before))}"
    return f"its folder was {before} when it started, and it writes there still; until it has ended: {link}"


def check_not_renamed(folder: RunFolder) -> None:
    """RunError for such a run: told to stop, it could not save its last checkpoint."""
    if why := renamed(folder):
        raise RunError(f"{folder.name}: {why}; then once more")
