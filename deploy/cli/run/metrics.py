"""`apexpert metrics`: a run's numbers for other programs."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from deploy.cli.errors import CommandFailed
from deploy.cli.parsing import parse
from deploy.monitor.metrics import read_metrics
from deploy.run.folder import RunFolder

FIRST = ("time", "env_steps")
"""Columns that every record has."""


@dataclass(frozen=True)
class MetricsArguments:
    """Print the newest value of each metric of a run, or with --csv all records of its metrics.jsonl.

      apexpert metrics RUN --csv > metrics.csv

    A row a record, oldest first; a metric that a record lacks is an empty cell. `time` is in seconds since
    1970, and docs/diagnostics.md and docs/concepts.md say what the others are.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Name of the run under --runs-dir, or the path of its folder."""
    csv: bool = False
    """Print all records as CSV."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


def metrics(argv: Sequence[str]) -> int:
    """Print the metrics; return the exit code."""
    arguments = parse(MetricsArguments, argv, command="metrics")
    folder = RunFolder.open(arguments.run, arguments.runs_dir)
    newest: dict[str, float] = {}
    # The file is read twice, because a long run's records take more memory than there may be.
    for record in read_metrics(folder.metrics_path):
        newest |= record
    if not newest:
        raise CommandFailed(f"{folder.name} has no metrics yet: {folder.metrics_path}")
    names = sorted(newest.keys() - set(FIRST))
    if not arguments.csv:
        for name in (*FIRST, *names):
            print(f"{name:<44} {_shown(newest[name])}")
        return 0
    rows = csv.DictWriter(sys.stdout, (*FIRST, *names), lineterminator="\n")
    rows.writeheader()
    for record in read_metrics(folder.metrics_path):
        rows.writerow(record)
    return 0


def _shown(value: float) -> str:
    """Format a whole number in full, and another with six digits, or to the millisecond if it is a time."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if value >= 1e6 else f"{value:.6g}"
