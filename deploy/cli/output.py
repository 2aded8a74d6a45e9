"""Output of commands: text that cannot be printed any more is dropped, and ends nothing.

The reader of a pipe leaves (`| head`) or gets the same Ctrl-C (`| tee log`); a terminal is closed; the disk
under a log file is full. From then on a command continues without output; a command that only works for its
output checks `is_lost`.
"""

import contextlib
import errno
import io
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, TextIO, cast

PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN)
"""Errors that are temporary; others, such as a broken pipe, are permanent."""

_lost: list[str] = []
"""Why standard output cannot be written any more; empty while it can."""


MOST_COLUMNS = 110
"""Width of text on a wider terminal, and where there is none."""


def wrap(text: str, first: str = "", rest: str = "") -> list[str]:
    """Return lines as wide as the terminal, up to 110 columns; words longer than that stay whole.

    `first`, `rest`: what the first line and the others begin with.
    """
    columns = min(shutil.get_terminal_size((MOST_COLUMNS, 0)).columns, MOST_COLUMNS)
    return textwrap.wrap(
        text,
        max(columns, len(rest) + 1),
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def is_lost() -> bool:
    """Whether standard output existed and cannot be written any more."""
    return bool(_lost)


def why_lost() -> str:
    """Return what the system reported when standard output first failed."""
    return _lost[0] if _lost else ""


def open_closed_streams() -> None:
    """Open /dev/null where this process was started without standard input, output or error (`2>&-`).

    Otherwise the next file or socket opened gets that descriptor, and is printed into.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Takes the lowest free descriptor, which is this one.
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 (as Python's own)


@contextlib.contextmanager
def unfailing() -> Iterator[None]:
    """While entered, printing to standard output and error never raises."""
    before = sys.stdout, sys.stderr
    _lost.clear()
    sys.stdout = cast(TextIO, Unfailing(before[0], _lost))
    sys.stderr = cast(TextIO, Unfailing(before[1], []))
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            if isinstance(stream, Unfailing):
                stream.end()
        sys.stdout, sys.stderr = before


class Unfailing:
    """A text stream that, once it cannot be written, accepts everything and shows nothing."""

    def __init__(self, stream: TextIO, lost: list[str]) -> None:
        """`lost` receives the reason of the first failure."""
        self._stream, self._lost = stream, lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text, if that is still possible."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:  # ValueError: the stream was closed.
            self._failed(error)
            return len(text)

    def flush(self) -> None:
        """Flush the buffer, if that is still possible."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """Drop text that a full disk or a slow terminal refuses; later text may be accepted again."""
        if getattr(error, "errno", None) not in PASSING:
            self._give_up(error)

    def end(self) -> None:
        """Flush for the last time; drop what cannot be written, or Python tries it again at exit."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._lost.append(getattr(error, "strerror", None) or str(error))
        # The buffer goes to /dev/null too: otherwise Python tries it again at exit and changes the exit code.
        with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
