"""The help of a command that takes every setting: a section at a time, as `--help SECTION`."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any, get_type_hints

from deploy.cli.errors import UsageError
from deploy.cli.parsing import parse
from deploy.run.checks import near_matches
from deploy.run.config import Config

ALL = "all"
SECTIONS = tuple(part.name for part in dataclasses.fields(Config) if part.name != "run")
"""Sections with a prefix of their own, which the short help leaves out."""


def print_help(arguments: Any, argv: Sequence[str], command: str) -> None:
    """Print the help that `argv` asks for, with the values of `arguments`, and raise SystemExit(0).

    `--help` alone shows the flags without a section. Returns if no help is asked for; raises UsageError for
    a section that is none.
    """
    place = next((n for n, token in enumerate(argv) if token in ("-h", "--help")), None)
    if place is None:
        return
    word = next((token for token in argv[place + 1 : place + 2] if not token.startswith("-")), "")
    if word not in ("", ALL, *SECTIONS):
        known = near_matches(word, SECTIONS) or f"; sections are {', '.join(SECTIONS)} and {ALL}"
        raise UsageError(f"--help {word}: no such section{known}")
    names = [part.name for part in dataclasses.fields(arguments)]
    if word != ALL:
        names = [word] if word else [name for name in names if name not in SECTIONS]
    parse(_part(arguments, names, command, word), ["--help"], command=command)


def _part(arguments: Any, names: Sequence[str], command: str, word: str) -> type:
    """Return a dataclass of some fields of `arguments`, with their values as defaults."""
    kind = type(arguments)
    hints = get_type_hints(kind, include_extras=True)
    values = [(name, hints[name], dataclasses.field(default=getattr(arguments, name))) for name in names]
    part = dataclasses.make_dataclass(kind.__name__, values, frozen=True)
    more = f"Every other setting: apexpert {command} --help SECTION, of {', '.join(SECTIONS)}, or {ALL}."
    whole = {"": f"{inspect.cleandoc(kind.__doc__ or '')}\n\n{more}", ALL: kind.__doc__}
    part.__doc__ = whole.get(word, f"Settings of the section {word}.")
    return part
