"""`apexpert study` and `apexpert report`: a question over games, seeds and arms, and its answer."""

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from deploy.cli.errors import CommandFailed, UsageError
from deploy.cli.parsing import parse
from deploy.cli.run import summary
from deploy.cli.run.follow import Interrupts
from deploy.cli.run.targets import check_target
from deploy.monitor.terminal import print_whole
from deploy.run.config import with_values
from deploy.run.machine.findings import gigabytes
from deploy.run.preflight import named_ray, origin_of_ray, preflight
from deploy.study import capacity
from deploy.study.driver import LOOK_SECONDS, Driver
from deploy.study.file import SMOKE, StudyFile, shipped
from deploy.study.folder import StudyFolder, command, path_of
from deploy.study.plan import PlannedRun, plan


@dataclass(frozen=True)
class StudyArguments:
    """Run a study: games x seeds x arms from one file, each run an ordinary run folder.

      apexpert study paper-scaling --size lite --dry-run
      apexpert study my-study.toml

    The same command resumes it where it stopped: what has finished stays, what was stopped or lost is
    resumed, what is at work is adopted. Ctrl-C, SIGTERM or a closed terminal ends its runs with a checkpoint
    each; under nohup a closed terminal does not. If this command is killed, runs under way go on.
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")] = ""
    """The study's file, or the name of a study that comes with Apexpert; without it their names are shown."""
    size: str = "full"
    """Which of the file's sizes to run, such as full or lite."""
    smoke: bool = False
    """The size `smoke`: each arm for some seconds on one game, to see that everything works."""
    dry_run: bool = False
    """Start nothing; list the runs, their hours by a short measurement on this machine, and their disk."""
    at_once: int = 0
    """Runs at once; 0 takes as many as fit: on a machine by its cores, on a cluster by its CPUs."""
    retry: bool = False
    """Start runs that have failed again."""
    ray_address: str = ""
    """Ray cluster for the runs; empty takes that of $RAY_ADDRESS, and without the variable, or with
    `local`, each run gets a private one."""
    runs_dir: str = "runs"
    """Folder in which the study's folder is made; that one holds the folders of its runs."""


def study(argv: Sequence[str]) -> int:
    """Run a study, or show what it would run; return the exit code."""
    arguments = parse(StudyArguments, argv, command="study")
    if not arguments.file:
        return _list()
    if arguments.at_once < 0:
        raise UsageError(f"--at-once {arguments.at_once}: must be 1 or more, or 0 for as many as fit")
    if arguments.smoke and arguments.size != "full":
        raise UsageError(f"--smoke: is a size; leave it or --size {arguments.size} out")
    file = StudyFile.read(arguments.file)
    size = file.size(SMOKE if arguments.smoke else arguments.size)
    home = path_of(file, size, Path(arguments.runs_dir))
    address = named_ray(arguments.ray_address)
    runs = plan(file, size, home, address)
    for game in size.games:  # Before the first run starts: all of them may take days.
        config = next(run for run in runs if run.game == game).config
        # The runs are detached from the study, which itself may well be the command of a job.
        preflight(with_values(config, run__detach=False))
    at_once = arguments.at_once or capacity.at_once(runs, address)
    if arguments.dry_run:
        return _dry_run(file, runs, at_once)
    folder = StudyFolder.create_or_open(file, size, Path(arguments.runs_dir))
    print(f"study {file.name}, {size.name}: {len(runs)} runs, {at_once} at once, {folder.path}")
    if address:
        print(f"on the Ray at {address}{origin_of_ray(address)}")
    with folder.driving():
        driver = Driver(folder, runs, at_once, retry=arguments.retry)
        again = command(arguments.file, size, Path(arguments.runs_dir))
        if arguments.ray_address:
            again += f" --ray-address {shlex.quote(arguments.ray_address)}"
        try:
            return _drive(folder, driver, at_once, again)
        except OSError as error:
            why = f"{folder.path}: {error.strerror or error}; runs at work go on"
            raise CommandFailed(f"{why}; once it is mended: {again}") from None


def _drive(folder: StudyFolder, driver: Driver, at_once: int, again: str) -> int:
    """Drive the runs until all have ended, or until a Ctrl-C; `again` is the command that resumes them."""
    from deploy.study.table import StudyTable

    table = StudyTable(folder.path.name, at_once)
    try:
        with Interrupts() as interrupts:
            while not driver.done and not interrupts.count:
                driver.step()
                table.update(driver.states)
                time.sleep(LOOK_SECONDS)
            if interrupts.count:
                print("stopping: every run saves a checkpoint (Ctrl-C again leaves them running)", flush=True)
                driver.stop(lambda text: print(text, flush=True))
                print(f"resume it: {again}")
    finally:
        table.close()
    print(table.summary(driver.states))
    print(f"report:    apexpert report {shlex.quote(str(folder.path))}")
    if failed := [state for state in driver.states if state.state == "failed"]:
        raise CommandFailed(f"{len(failed)} failed, {failed[0].planned.name} first: {failed[0].message}")
    return 0


def _dry_run(file: StudyFile, runs: Sequence[PlannedRun], at_once: int) -> int:
    from rich.table import Table

    table = Table("run", "env steps", "hours", "disk", box=None, pad_edge=False)
    speeds: dict[str, float] = {}
    hours, disk = 0.0, 0
    arms = len({run.arm for run in runs})
    for run in runs:
        if run.arm not in speeds:
            print(f"measuring {run.arm} (arm {len(speeds) + 1} of {arms})", file=sys.stderr, flush=True)
            speeds[run.arm] = capacity.env_steps_per_s(preflight(run.config))
        steps, bytes_ = run.config.run.total_env_steps, sum(summary.disk_estimate(run.config))
        own = steps / speeds[run.arm] / 3600
        table.add_row(run.name, f"{steps:,}", f"{own:.2f}", gigabytes(bytes_))
        hours, disk = hours + own, disk + bytes_
    print_whole(table)
    print(f"{file.name}: {len(runs)} runs, {at_once} at once")
    print(
        f"at least {hours / at_once:.1f} hours here ({hours:.1f} one after another), by the parts' own speeds"
    )
    print(f"disk up to {gigabytes(disk)}")
    return 0


def _list() -> int:
    from rich.table import Table

    table = Table("study", "question", box=None, pad_edge=False)
    for name in shipped():
        table.add_row(name, StudyFile.read(name).question)
    print_whole(table)
    print("run one by: apexpert study NAME --size lite --dry-run")
    return 0


@dataclass(frozen=True)
class ReportArguments:
    """Write a study's report: one HTML page with figures, tables, curves, diagnostics and every run.

      apexpert report runs/my-study

    Beside it: results.csv (a row a run), curves.csv (a row a point) and tables.tex. A study that is at work
    can be reported too.
    """

    study: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY")]
    """Name of the study's folder under --runs-dir, or its path."""
    output: str = ""
    """Folder for the report; empty takes the study's."""
    runs_dir: str = "runs"
    """Folder that holds the study's folder."""


def report(argv: Sequence[str]) -> int:
    """Write a study's report; return the exit code."""
    arguments = parse(ReportArguments, argv, command="report")
    from deploy.study.report.page import PAGE, write_report
    from deploy.study.results import StudyResults

    named = Path(arguments.runs_dir) / arguments.study
    results = StudyResults.read(named if named.is_dir() else Path(arguments.study))
    target = Path(arguments.output) if arguments.output else results.folder.path
    check_target("--output", target / PAGE)
    target.mkdir(parents=True, exist_ok=True)
    print(write_report(results, target))
    return 0
