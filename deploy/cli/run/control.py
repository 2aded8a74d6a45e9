"""`apexpert status`, `scale`, `stop` and `list`."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from actors.config import Actors
from deploy.cli.cluster import there
from deploy.cli.output import is_lost, wrap
from deploy.cli.parsing import parse
from deploy.cli.run import summary
from deploy.cli.run.follow import Interrupts
from deploy.run import folder as run_folder
from deploy.run.errors import RunError
from deploy.run.folder import RunFolder
from deploy.run.states import FINAL_STATES, LOST
from deploy.run.status import read_status

RunName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]

Count = Annotated[int | None, tyro.conf.arg(metavar="INT")]


@dataclass(frozen=True)
class StatusArguments:
    """Show how a run is doing: progress, return, speed, replay, actors and its last events."""

    run: RunName
    """Name of the run under --runs-dir, or the path of its folder."""
    follow: bool = False
    """Keep showing until the run ends or Ctrl-C is pressed, which does not stop the run."""
    json: bool = False
    """Print the whole status as JSON."""
    ray_address: str = ""
    """Ask the run's supervisor on the Ray at this address, which needs no folder; RUN is its name there."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


@dataclass(frozen=True)
class ScaleArguments:
    """Change how many actors a running run has (new ones start, surplus ones drain and leave), or add shards
    to its replay, which are used at once and stay part of the run.
    """

    run: RunName
    """Name of the run under --runs-dir, or the path of its folder."""
    actors: Annotated[Actors | None, tyro.conf.arg(metavar="INT|auto|auto:MIN-MAX")] = None
    """Number of actors the run should have, 1 or more; `auto` or `auto:MIN-MAX`: as in train."""
    shards: Count = None
    """Number of embedded Redis servers the run should have, more than now: none can be removed."""
    add_urls: tuple[str, ...] = ()
    """Redis servers of your own to add to a run that already uses such; `@FILE` as in train."""
    ray_address: str = ""
    """Ask the run's supervisor on the Ray at this address, which needs no folder; RUN is its name there."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


@dataclass(frozen=True)
class StopArguments:
    """End a run cleanly: actors drain, the learner saves a checkpoint; `apexpert resume` resumes it."""

    run: RunName
    """Name of the run under --runs-dir, or the path of its folder."""
    ray_address: str = ""
    """Ask the run's supervisor on the Ray at this address, which needs no folder; RUN is its name there."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


@dataclass(frozen=True)
class ListArguments:
    """List the runs under --runs-dir, oldest first."""

    ray_address: str = ""
    """List the runs at work on the Ray at this address instead, wherever their folders are."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


def status(argv: Sequence[str]) -> int:
    """Print a run's status, or follow it; return the exit code."""
    arguments = parse(StatusArguments, argv, command="status")
    if arguments.ray_address:
        return there.status(arguments)
    folder = RunFolder.open(arguments.run, arguments.runs_dir)
    if arguments.json:
        import json

        print(json.dumps(read_status(folder), indent=1))
    elif arguments.follow:
        _follow(folder)
    else:
        print_status(_with_reason(folder, read_status(folder)))
    return 0


def _with_reason(folder: RunFolder, status: dict[str, Any]) -> dict[str, Any]:
    """Return the status of a run that is lost, with the reason if it waits for a node of its cluster."""
    if status["state"] != LOST or not folder.load_config().run.ray_address:
        return status
    from deploy.fleet.errors import FleetError
    from deploy.fleet.ray import core

    with contextlib.suppress(FleetError):
        if why := core.awaited(folder):
            return status | {"state": "starting", "message": f"{why}, and then goes on by itself"}
    return status


def scale(argv: Sequence[str]) -> int:
    """Ask a running run for another number of actors or for more shards; return the exit code."""
    arguments = parse(ScaleArguments, argv, command="scale")
    if arguments.ray_address:
        return there.scale(arguments)
    folder = RunFolder.open(arguments.run, arguments.runs_dir)
    from deploy.fleet import operations  # Ray takes a second: mistakes are reported before.

    actors = arguments.actors
    asked = operations.scale(
        folder, num_actors=actors, num_shards=arguments.shards, add_urls=arguments.add_urls
    )
    print(f"{folder.name}: {' and '.join(asked)} asked for; see {folder.command('status')}")
    # On a cluster actors are anywhere, and the cores of this machine say nothing.
    if actors and not folder.load_config().run.ray_address and (warning := summary.crowding(actors)):
        print(warning)
    return 0


def stop(argv: Sequence[str]) -> int:
    """Ask a running run to stop and wait until it has; return the exit code."""
    arguments = parse(StopArguments, argv, command="stop")
    if arguments.ray_address:
        return there.stop(arguments)
    folder = RunFolder.open(arguments.run, arguments.runs_dir)
    state = read_status(folder)["state"]
    if state in FINAL_STATES:
        print(f"{folder.name}: {state} already")
        return 0
    from deploy.fleet import operations

    final = operations.stop(folder, tell=lambda text: print(f"{folder.name}: {text}", flush=True))
    print(f"{folder.name}: {final['state']}; checkpoint {folder.newest_checkpoint() or '-'}")
    print(f"resume it: {folder.command('resume')}")
    return 0


def list_runs(argv: Sequence[str]) -> int:
    """Print one line per run; return the exit code."""
    from rich.table import Table

    from deploy.monitor.terminal import print_whole

    arguments = parse(ListArguments, argv, command="list")
    if arguments.ray_address:
        return there.list_runs(arguments)
    folders = run_folder.list_runs(arguments.runs_dir)
    if not folders:
        print(f"no runs under {arguments.runs_dir}")
        return 0
    table = Table("run", "game", "state", "env steps", "return", box=None, pad_edge=False)
    broken = []
    for folder in folders:
        try:
            table.add_row(*_row(folder))
        except RunError as error:
            # A run that cannot be read must not hide the others.
            broken.append(f"{folder.name}: {_briefly(error)}")
            table.add_row(folder.name, "-", "broken", "-", "-")
    print_whole(table)
    for problem in broken:
        print("\n".join(wrap(problem, rest="  ")))
    return 0


def _follow(folder: RunFolder) -> None:
    from deploy.monitor.console import Console
    from deploy.reports.seeds.expectation import expectation

    config = folder.load_config()
    console = Console(f"{folder.name} ({config.game_name})", expects=expectation(config))
    try:
        with Interrupts() as interrupts:
            while not interrupts.count and not is_lost():
                status = read_status(folder)
                if "total_env_steps" in status:
                    console.update(status)
                if status["state"] in FINAL_STATES | {LOST}:
                    break
                time.sleep(0.5)
    finally:
        console.close()


def print_status(status: Mapping[str, Any]) -> None:
    """Print a status in some lines."""
    from deploy.monitor.console import rows

    if "total_env_steps" not in status:
        print(f"{status['run']}: {status['state']}")
        return
    done = int(status["metrics"].get("progress/env_steps", 0))
    print(f"{status['run']}: {status['state']}, {done:,} of {status['total_env_steps']:,} env steps")
    for label, value in rows(status):
        print(f"  {label:<20} {value}")
    if status.get("message"):
        print(f"  {status['message']}")
    for note in status.get("notes", [])[-5:]:
        print(f"  {note}")


def _briefly(error: RunError) -> str:
    """Return which file is wrong and what, without its folder and without all that would be right."""
    problem = str(error).removeprefix(f"{error.path}: ").partition(";")[0]
    return f"{error.path.name}: {problem}" if error.path else problem


def _row(folder: RunFolder) -> tuple[str, ...]:
    """Return a run's line; raise RunError if the run cannot be read."""
    config, status = folder.load_config(), read_status(folder)
    metrics = status["metrics"]
    steps = f"{int(metrics.get('progress/env_steps', 0)):,} / {config.run.total_env_steps:,}"
    mean = metrics.get("episode/return_mean_100")
    return folder.name, config.game_name, status["state"], steps, "-" if mean is None else f"{mean:.2f}"
