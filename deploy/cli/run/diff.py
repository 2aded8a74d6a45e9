"""`apexpert diff`: what two runs have different, settings and results."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from deploy.cli.errors import UsageError
from deploy.cli.parsing import parse
from deploy.cli.run import summary
from deploy.monitor.terminal import print_whole, terminal
from deploy.run.config import Config, flag_of, hide_password, leaves
from deploy.run.folder import METADATA, RunFolder
from deploy.run.status import read_status


@dataclass(frozen=True)
class DiffArguments:
    """Set runs side by side: the settings that differ, what they were made with, and what came of them.

      apexpert diff RUN RUN

    Settings are named by the flag that changes them.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN RUN")] = ()
    """Names of two runs or more under --runs-dir, or paths of their folders."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""
    json: bool = False
    """Print the rows as JSON: a list of the runs' values for each name."""


def diff(argv: Sequence[str]) -> int:
    """Print what differs; return the exit code."""
    arguments = parse(DiffArguments, argv, command="diff")
    if len(arguments.runs) < 2:
        raise UsageError("RUN RUN: name two runs or more (see apexpert diff --help)")
    folders = [RunFolder.open(name, arguments.runs_dir) for name in arguments.runs]
    sections = {
        "settings": differing_settings([folder.load_config() for folder in folders]),
        "made with": differing([made_with(folder) for folder in folders]),
        "results": beside([results(folder) for folder in folders]),
    }
    if arguments.json:
        print(json.dumps({"runs": [folder.name for folder in folders]} | sections, indent=1))
        return 0
    _print([folder.name for folder in folders], sections)
    return 0


def differing_settings(configs: Sequence[Config]) -> dict[str, list[str]]:
    """Return the settings whose values differ, by their flags; not the name, which always differs.

    Passwords in URLs are hidden, and do not count as a difference.
    """
    columns = [leaves(config) for config in configs]
    rows = {}
    for path in columns[0].keys() - {"run.name"}:
        values = [_without_passwords(column[path]) for column in columns]
        if len(set(values)) > 1:
            shown = [summary.show(path, value) for value in values]
            # A float is shown with six digits, which may be the same of two values.
            rows[path] = shown if len(set(shown)) == len(set(values)) else [repr(value) for value in values]
    return {flag_of(path): rows[path] for path in columns[0] if path in rows}


def _without_passwords(value: Any) -> Any:
    return tuple(hide_password(item) for item in value) if isinstance(value, tuple) else value


def made_with(folder: RunFolder) -> dict[str, str]:
    """Return commit, versions, processor and cores that a run was started with."""
    metadata = folder.read_json(METADATA, {})
    hardware = metadata.get("hardware", {})
    commit = metadata.get("commit") or ""
    found = {"commit": commit[:12] + "+" * commit.endswith("+"), **metadata.get("versions", {})}
    found |= {name: hardware.get(name) for name in ("cpu", "cores")}
    gpus = ", ".join(hardware.get("gpus") or ())
    return {name: str(value) for name, value in (found | {"gpus": gpus}).items() if value}


def results(folder: RunFolder) -> dict[str, str]:
    """Return what the end of a run prints, and its newest evaluation of the whole network."""
    status = read_status(folder)
    return {"state": str(status["state"])} | summary.results(status) | evaluation(folder.path)


def evaluation(path: Path) -> dict[str, str]:
    """Return the mean return of the newest checkpoint that was evaluated as a whole; empty if none was."""
    # Names begin with the checkpoint's, so that they sort by update.
    whole = [file for file in path.glob("evaluation-update-*.json") if "-without-" not in file.name]

    # Of the same checkpoint, the run's own number of games before any other that was asked for.
    def order(file: Path) -> tuple[str, bool, str]:
        return file.name.partition("-seed-")[0], "-games-" not in file.name, file.name

    for file in sorted(whole, key=order, reverse=True):
        # Passes over a file that is not whole, such as one that is being written or copied.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            report = json.loads(file.read_text(encoding="utf-8"))
            return {"evaluation": f"{report['return_mean']:.2f} ({report['episodes']} games)"}
    return {}


def beside(columns: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    """Return each name with the value of every column, `-` where one has none, in the first's order."""
    names = dict.fromkeys(name for column in columns for name in column)
    return {name: [column.get(name, "-") for column in columns] for name in names}


def differing(columns: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    """Return the rows of `beside` that are not the same in every column."""
    return {name: row for name, row in beside(columns).items() if len(set(row)) > 1}


def _print(runs: Sequence[str], sections: dict[str, dict[str, list[str]]]) -> None:
    from rich.table import Table

    console = terminal()
    for title, rows in sections.items():
        table = Table(box=None, pad_edge=False)
        for head in (title, *runs):
            table.add_column(head)
        for name, row in rows.items():
            table.add_row(name, *row)
        if not rows:
            table.add_row("nothing differs")
        print_whole(table, console)
        console.print()
