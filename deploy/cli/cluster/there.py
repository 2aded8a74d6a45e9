"""`apexpert status`, `scale`, `stop`, `list` with --ray-address: the runs on a Ray, without their folders."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from actors.config import MOST_ACTORS, is_actor_count
from deploy.cli.errors import UsageError
from deploy.cli.output import is_lost
from deploy.cli.run.follow import Interrupts
from deploy.run.config import ConfigError
from deploy.run.preflight import check_ray_address
from deploy.run.states import FINAL_STATES

if TYPE_CHECKING:
    from deploy.cli.run.control import ListArguments, ScaleArguments, StatusArguments, StopArguments
    from deploy.fleet.ray.runs import RunOnRay


@contextlib.contextmanager
def run_there(arguments: "StatusArguments | ScaleArguments | StopArguments") -> Iterator["RunOnRay"]:
    """Yield the run that the command names; a Ray that does not answer is a wrong flag."""
    check_ray_address(arguments.ray_address)
    from deploy.fleet.errors import WrongFlag
    from deploy.fleet.ray.runs import find_on

    try:
        yield find_on(arguments.ray_address, arguments.run)
    except WrongFlag as error:
        raise ConfigError(str(error)) from None


def status(arguments: "StatusArguments") -> int:
    """Print the run's status, or follow it; return the exit code."""
    with run_there(arguments) as run:
        if arguments.json:
            print(json.dumps(run.status(), indent=1))
        elif arguments.follow:
            _follow(run)
        else:
            from deploy.cli.run.control import print_status

            print_status(run.status())
    return 0


def _follow(run: "RunOnRay") -> None:
    from deploy.fleet.errors import FleetError
    from deploy.monitor.console import Console

    status = run.status()
    console = Console(f"{run.name} ({status.get('game', '')})")
    try:
        with Interrupts() as interrupts, contextlib.suppress(FleetError):
            while not interrupts.count and not is_lost():
                console.update(status)
                if status["state"] in FINAL_STATES:
                    break
                time.sleep(0.5)
                status = run.status()
    finally:
        console.close()


def scale(arguments: "ScaleArguments") -> int:
    """Ask the run for another number of actors; return the exit code."""
    actors = arguments.actors
    if arguments.shards is not None or arguments.add_urls:
        raise UsageError("--shards, --add-urls: need the run's folder; leave --ray-address out, where it is")
    if actors is None or not is_actor_count(actors):
        found = "" if actors is None else f" {actors}"
        allowed = f"must be 1 to {MOST_ACTORS}, auto, or auto:MIN-MAX with such numbers"
        raise UsageError(f"--actors{found}: {allowed}; to end the run: apexpert stop")
    with run_there(arguments) as run:
        run.scale(actors)
        print(f"{run.name}: {actors} actors asked for")
    return 0


def stop(arguments: "StopArguments") -> int:
    """Ask the run to stop and wait until it has; return the exit code."""
    with run_there(arguments) as run:
        final = run.stop(tell=lambda text: print(f"{run.name}: {text}", flush=True))
        print(f"{run.name}: {final['state']}; its checkpoints are in {run.path}/checkpoints")
    return 0


def list_runs(arguments: "ListArguments") -> int:
    """Print one line per run at work; return the exit code."""
    check_ray_address(arguments.ray_address)
    from rich.table import Table

    from deploy.fleet.errors import FleetError, WrongFlag
    from deploy.fleet.ray.runs import runs_on
    from deploy.monitor.terminal import print_whole

    try:
        runs = runs_on(arguments.ray_address)
    except WrongFlag as error:
        raise ConfigError(str(error)) from None
    if not runs:
        print(f"no runs at work on the Ray at {arguments.ray_address}")
        return 0
    table = Table("run", "game", "state", "env steps", "return", "folder", box=None, pad_edge=False)
    for run in runs:
        try:
            table.add_row(run.name, *_row(run.status()), run.path)
        except FleetError:
            table.add_row(run.name, "-", "no answer", "-", "-", run.path)
    print_whole(table)
    return 0


def _row(status: Mapping[str, Any]) -> tuple[str, ...]:
    metrics = status["metrics"]
    steps = f"{int(metrics.get('progress/env_steps', 0)):,} / {status['total_env_steps']:,}"
    mean = metrics.get("episode/return_mean_100")
    return str(status.get("game", "-")), status["state"], steps, "-" if mean is None else f"{mean:.2f}"
