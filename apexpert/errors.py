"""The root of every error that Apexpert raises; imported by every package, and importing none."""

import re
from pathlib import Path

# The look-behind leaves out two hyphens inside a word, such as a run's name.
_FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*(\.[a-z][\w-]*)?")


class ApexpertError(Exception):
    """Root of every error that Apexpert raises; the message is one line for a user."""

    path: Path | None = None
    """The file or folder that is wrong, where it is one."""

    def __init__(self, *args: object, path: Path | str | None = None) -> None:
        super().__init__(*args)
        if path is not None:
            self.path = Path(path)

    @property
    def flag(self) -> str | None:
        """The command-line flag that the message names first, such as `--replay.n-step`; None without one.

        From Python the same field of the configuration is meant: `replay.n_step`; `--seed` is `run.seed`.
        """
        found = _FLAG.search(str(self))
        return None if found is None else found.group()


def one_line(error: object) -> str:
    """Return the error's message without line breaks."""
    return " ".join(str(error).split())
