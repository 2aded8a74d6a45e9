"""Parses command lines into dataclasses with tyro; every mistake is one line: the flag and what it allows."""

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from deploy.cli.errors import TRACEBACK, UsageError
from deploy.run.config import describe_type, flag_of, leaf_types, switched_off

T = TypeVar("T")

SHORT_FLAGS = {
    "--game": "--environment.game",
    "--env": "--environment.env",
    "--actors": "--actors.num-actors",
    "--envs-per-actor": "--actors.envs-per-actor",
    "--shards": "--replay.shards",
    "--batch-size": "--learner.batch-size",
    "--learning-rate": "--learner.learning-rate",
    "--device": "--learner.device",
    "--encoder": "--network.encoder",
    "--head": "--network.head",
    "--experts": "--network.num-experts",
}
"""Short names for the common flags of `train`, and of the commands that accept all of its flags."""
RENAMED = {
    "--network.distributional": "--network.values c51",
    "--network.no-distributional": "--network.values scalar",
}
"""Flags of earlier versions, and the flag that does the same today."""
UNPREFIXED = ("run", "base", "again", "bench", "model", "elsewhere")
"""Parts of an arguments dataclass whose fields are flags without a prefix (tyro is told so as well)."""


def parse(kind: type[T], argv: Sequence[str], *, command: str, default: T | None = None) -> T:
    """Parse `argv` into a `kind` (a dataclass of fields or of dataclasses).

    Prints the help and raises SystemExit(0) for `--help`; raises UsageError for anything that does not parse.
    """
    prog = f"apexpert {command}"
    given: dict[str, Any] = {} if default is None else {"default": default}
    errors = io.StringIO()
    try:
        # tyro prints a box of its own, which `explain` turns into one line.
        with contextlib.redirect_stderr(errors):
            # Unknown flags are returned, because our own line can suggest the right one.
            value, unknown = tyro.cli(kind, args=list(argv), prog=prog, return_unknown_args=True, **given)
    except SystemExit as stop:
        if stop.code in (0, None):
            print(f"{TRACEBACK}: with any command, print all of an error instead of its last line")
            raise
        raise UsageError(explain(errors.getvalue(), kind, argv, prog)) from None
    if unknown:
        raise UsageError(_unknown(unknown[0], flags_of(kind), argv, prog))
    return value


def expand_short(argv: Sequence[str]) -> list[str]:
    """Return `argv` with short flags written out: `--game=Pong` becomes `--environment.game=Pong`."""
    full = []
    for token in argv:
        flag, equals, value = token.partition("=")
        full.append(SHORT_FLAGS.get(_hyphens(flag), flag) + equals + value)
    return full


def as_typed(message: str, argv: Sequence[str]) -> str:
    """Return `message` with flags named as in `argv`, where the short form was typed."""
    typed = flag_names(argv)
    for short, full in SHORT_FLAGS.items():
        if short in typed and full not in typed:
            # The whole flag: --network.encoder also begins --network.encoder-width-scale.
            message = re.sub(rf"{re.escape(full)}(?![\w-])", short, message)
    return message


def fields_for_flags(line: str, kind: Any) -> str:
    """Return the line with `network.head` in place of `--network.head`, where a command has no such flag.

    `kind`: the command's arguments. What it finds wrong in a saved configuration is a field there.
    """
    fields = {flag_of(path): path for path in leaf_types() if not path.startswith("run.")}
    for flag in fields.keys() - flags_of(kind).keys():
        line = line.replace(f"{fields[flag]} ({flag})", fields[flag])
        # The whole flag, unless the line says which command has it.
        line = re.sub(rf"(?<!apexpert train )(?<![\w-]){re.escape(flag)}(?![\w-])", fields[flag], line)
    return line


def flag_names(argv: Sequence[str]) -> set[str]:
    """Return the words of `argv` that may be flags, without their values."""
    return {_hyphens(token.partition("=")[0]) for token in argv}


def flag_value(argv: Sequence[str], flag: str) -> str | None:
    """Return the last value that `argv` gives for `flag`, as text; None without value or flag."""
    found = None
    for place, token in enumerate(argv):
        name, equals, value = token.partition("=")
        if _hyphens(name) == flag:
            found = value if equals else "".join(argv[place + 1 : place + 2])
    return None if not found or found.startswith("--") else found


def flags_of(kind: Any, prefix: str = "") -> dict[str, Any]:
    """Return every flag of a dataclass with its type; switches also in `no-` form, positionals not at all."""
    flags: dict[str, Any] = {}
    for name, annotation in get_type_hints(kind, include_extras=True).items():
        positional = get_origin(annotation) is Annotated and tyro.conf.Positional in get_args(annotation)
        annotation = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
        if dataclasses.is_dataclass(annotation):
            flags |= flags_of(annotation, "" if name in UNPREFIXED else f"{name}.")
        elif not positional:
            # `import_` has an underscore because the word itself is Python's.
            flags[f"--{prefix}{_hyphens(name.rstrip('_'))}"] = annotation
            if annotation is bool:
                flags[f"--{prefix}no-{_hyphens(name)}"] = annotation
    return flags


def explain(text: str, kind: Any, argv: Sequence[str], prog: str) -> str:
    """Turn tyro's error box `text` into one line.

    Only the flag's name is taken from the box, everything else from `kind` and `argv`, so that tyro's wording
    and layout do not matter.
    """
    plain = " ".join(re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│─]", " ", text).split())
    flags = flags_of(kind)
    typed = {_hyphens(token.partition("=")[0]): token for token in argv if re.match(r"--\w", token)}
    if strange := [token for name, token in typed.items() if name not in flags]:
        return _unknown(strange[0], flags, argv, prog)  # tyro may report a missing value for it first.
    named = [flag for flag in re.findall(r"--[\w.-]*\w", plain) if flag in flags]
    if re.search(r"\bRUN\b", plain):
        return f"RUN is missing: the name of a run or the path of its folder (see {prog} --help)"
    if named:
        flag, value = named[0], flag_value(argv, named[0])
        problem = "needs a value" if value is None else f"{value!r} is not allowed"
        return f"{flag}: {problem}; allowed is {describe_type(flags[flag])}"
    return f"{prog}: {plain[:200]} (see {prog} --help)"


def _unknown(token: str, flags: dict[str, Any], argv: Sequence[str], prog: str) -> str:
    """Return one line about a token that belongs to no flag."""
    if token.startswith("-"):
        name = _hyphens(token.partition("=")[0])
        if name in flags and "--" in argv:
            return f"{name}: a flag, but -- before it ends them; leave -- out"
        renamed = RENAMED.get(name, "")
        if renamed.partition(" ")[0] in flags:
            return f"{name}: unknown flag; it is {renamed} now"
        return f"{name}: unknown flag{_flags_meant(name, flags)} (all flags: {prog} --help)"
    if switch := next((word[: -len(token) - 1] for word in argv if word.endswith(f"={token}")), ""):
        return _no_value(switch, token)
    before = argv[argv.index(token) - 1] if token in argv and argv.index(token) > 0 else ""
    if flags.get(_hyphens(before)) is bool:
        return _no_value(before, token)
    after = f" after {before}" if before else ""
    return f"{token!r}{after}: unexpected; every option begins with -- (see {prog} --help)"


def _no_value(switch: str, value: str) -> str:
    return f"{switch}: takes no value ({value!r}); {switched_off(switch)} turns it off"


def _flags_meant(name: str, flags: Iterable[str]) -> str:
    """Return `; did you mean ...?` with full names of flags that the command has, or an empty string."""
    if same_end := [flag for flag in flags if flag.endswith(f".{name.lstrip('-')}")]:
        return f"; did you mean {' or '.join(same_end)}?"
    full = {flag: flag for flag in [*flags, TRACEBACK]}
    full |= {short: flag for short, flag in SHORT_FLAGS.items() if flag in full}
    near = difflib.get_close_matches(name, full, n=1, cutoff=0.6)
    return f"; did you mean {full[near[0]]}?" if near else ""


def _hyphens(name: str) -> str:
    return name.replace("_", "-")
