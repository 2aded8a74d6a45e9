"""The `apexpert` command: finds the subcommand, runs it, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 the run or the check failed, 2 the command line or configuration is wrong (nothing was
started), 130 interrupted (by the first Ctrl-C, or by the second where the first stops a run in order).
Subcommands are imported when called, so that help, versions and mistakes are answered at once.
"""

import importlib
import io
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import NamedTuple

from apexpert.users_code import search_ours_first
from deploy.cli.output import open_closed_streams, unfailing


class Command(NamedTuple):
    """Where a subcommand is defined (module, function) and what it does."""

    module: str
    function: str
    summary: str


COMMANDS = {
    "train": Command(
        "deploy.cli.run.train", "train", "start a run: apexpert train --preset laptop --game Pong"
    ),
    "submit": Command(
        "deploy.cli.cluster.submit", "submit", "start or resume a run as a job of a Ray cluster"
    ),
    "resume": Command(
        "deploy.cli.run.train", "resume", "resume a run from its newest checkpoint, replay included"
    ),
    "status": Command("deploy.cli.run.control", "status", "show how a run is doing (--follow keeps showing)"),
    "scale": Command(
        "deploy.cli.run.control", "scale", "change the number of actors of a running run, or add shards"
    ),
    "stop": Command("deploy.cli.run.control", "stop", "end a run cleanly, with a checkpoint"),
    "diff": Command(
        "deploy.cli.run.diff", "diff", "set runs side by side: what differs in settings and results"
    ),
    "metrics": Command(
        "deploy.cli.run.metrics", "metrics", "print a run's newest metrics, or all of them as CSV (--csv)"
    ),
    "list": Command("deploy.cli.run.control", "list_runs", "list the runs under --runs-dir"),
    "evaluate": Command(
        "deploy.cli.network.look", "evaluate", "play full games with a run's newest checkpoint (--video)"
    ),
    "plot": Command(
        "deploy.cli.network.plot",
        "plot",
        "draw the learning curves of runs (--diagnostics: what explains them)",
    ),
    "bands": Command(
        "deploy.cli.network.bands",
        "bands",
        "set a run beside published seeds of its game and agent (--power)",
    ),
    "show": Command(
        "deploy.cli.network.show", "show", "draw what each expert looks at in a game, as a sheet and an mp4"
    ),
    "play": Command(
        "deploy.cli.network.play", "play", "watch a run's newest checkpoint play, in a window or as an mp4"
    ),
    "export": Command(
        "deploy.cli.network.export", "export", "write a run's network as one file that plays anywhere"
    ),
    "model": Command(
        "deploy.cli.network.model",
        "model",
        "print the network of a preset and flags: layers, tokens, parameters, FLOPs",
    ),
    "replay": Command(
        "deploy.cli.replay.replay",
        "replay",
        "look at a run's replay (--verify, --frames, --export, --import, --delete)",
    ),
    "study": Command(
        "deploy.cli.study",
        "study",
        "run a study: games x seeds x arms from one file, resumed where it stopped",
    ),
    "report": Command(
        "deploy.cli.study", "report", "write a study's report: one HTML page, CSV and LaTeX tables"
    ),
    "bench": Command(
        "deploy.cli.bench",
        "bench",
        "measure actor, replay, learner, head, diagnostics, weights or end-to-end",
    ),
    "games": Command("deploy.cli.games", "games", "list the Atari games, their scores and published agents"),
    "cluster": Command(
        "deploy.cli.cluster.check", "cluster", "check every node of a Ray cluster: apexpert cluster check"
    ),
    "doctor": Command(
        "deploy.cli.doctor", "doctor", "check that this machine can train, and say what to do if not"
    ),
}

HELP = """\
usage: apexpert COMMAND [flags]

Trains Soft Mixture-of-Experts Q-networks on Atari with many actors and one learner.

{commands}

  A first run:  apexpert doctor
                apexpert train --preset laptop --game Pong
  Help on one:  apexpert train --help
  All of an error, instead of its last line:  apexpert COMMAND --traceback
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    open_closed_streams()
    print_whatever_is_in_a_path()
    with unfailing():
        return _main(argv)


def _main(argv: list[str]) -> int:
    from deploy.cli.errors import TRACEBACK

    if argv[:1] == [TRACEBACK]:
        argv = [*argv[1:], TRACEBACK]  # It may stand before the command too.
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(f"apexpert {metadata.version('apexpert')}")
        return 0
    return run_command(argv[0], argv[1:])


def print_whatever_is_in_a_path() -> None:
    """Print characters that the terminal's encoding, or any, lacks as `\\xhh` instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def help_text() -> str:
    """Return the list of commands."""
    lines = (f"  {name:<10} {command.summary}" for name, command in COMMANDS.items())
    return HELP.format(commands="\n".join(lines))


def run_command(name: str, argv: Sequence[str]) -> int:
    """Run one subcommand; expected errors become one line on stderr and their exit code."""
    # Before more of ours is imported: PYTHONPATH may name a folder with a `models` of its own.
    search_ours_first()
    from deploy.cli.errors import TRACEBACK
    from deploy.cli.parsing import fields_for_flags
    from deploy.run.checks import near_matches

    if name not in COMMANDS:
        hint = near_matches(name, COMMANDS) or f"; commands are {', '.join(COMMANDS)}"
        return fail(f"{name}: unknown command{hint}", 2)
    try:
        return _function(COMMANDS[name])([word for word in argv if word != TRACEBACK])
    except (Exception, KeyboardInterrupt) as error:
        if TRACEBACK in argv:
            print_traceback(error)
        line, code = described(error, name)
        module = sys.modules.get(COMMANDS[name].module)
        # Behind its -- are flags of `train`.
        kind = None if name == "submit" else getattr(module, f"{name.capitalize()}Arguments", None)
        return fail(fields_for_flags(line, kind) if kind else line, code)


def described(error: BaseException, name: str) -> tuple[str, int]:
    """Return the one line that the command `name` says about an error, and its exit code."""
    from apexpert.errors import ApexpertError
    from apexpert.users_code import explained
    from deploy.cli.errors import TRACEBACK, UsageError
    from deploy.run.config import ConfigError
    from deploy.run.errors import RunError

    if isinstance(error, UsageError | ConfigError | RunError):
        return str(error), 2
    if isinstance(error, ApexpertError):
        return str(error), 1
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, OSError) and error.strerror:
        # A folder that cannot be written, a full disk: one line for errors that nobody foresaw.
        return f"{error.filename or name}: {error.strerror}", 1
    return f"{name}: {explained(error)}; {TRACEBACK} shows all of it", 1


def print_traceback(error: BaseException) -> None:
    """Print on stderr where the error came from, with the errors that it replaced, without passwords."""
    from deploy.run.config import hide_password

    inner: BaseException | None = error
    while inner is not None:
        # `raise ... from None` hides the user's own error, which is what is looked for.
        inner.__suppress_context__ = False
        inner = inner.__cause__ or inner.__context__
    print(hide_password("".join(traceback.format_exception(error))), end="", file=sys.stderr)


def fail(message: str, code: int) -> int:
    """Print in one line on stderr what is wrong; return `code`."""
    from deploy.run.config import hide_password

    # In the configuration `run.seed` is a field; as a flag it is `--seed`.
    line = hide_password(" ".join(message.split()).replace("--run.", "--"))
    print(f"apexpert: {line}", file=sys.stderr)
    return code


def _function(command: Command) -> Callable[[Sequence[str]], int]:
    function: Callable[[Sequence[str]], int] = getattr(
        importlib.import_module(command.module), command.function
    )
    return function


if __name__ == "__main__":
    sys.exit(main())
