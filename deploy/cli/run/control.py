"""`apexpert status`, `scale`, `stop` and `list`."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from deploy.cli.errors import CommandFailed
from deploy.cli.output import is_lost
from deploy.cli.parsing import parse
from deploy.cli.run import summary
from deploy.cli.run.follow import Interrupts, RunClient
from deploy.cli.run.preflight import check_urls, named_urls
from deploy.cli.run.renamed import check_not_renamed, renamed
from deploy.cli.run.train import commands_for, fleet_errors
from deploy.run import folder as run_folder
from deploy.run.checks import MOST_ACTORS, check
from deploy.run.config import Config, ConfigError, with_shard, with_values
from deploy.run.errors import RunError
from deploy.run.folder import RunFolder
from deploy.run.states import FINAL_STATES

STALE_SECONDS = 30.0
STOP_SECONDS = 300.0

RunName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]

Count = Annotated[int | None, tyro.conf.arg(metavar="INT")]


@dataclass(frozen=True)
class StatusArguments:
    """Show how a run is doing: progress, return, speed, replay, actors and its last events."""

    run: RunName
    """Name of the run under --runs-dir, or the path of its folder."""
    follow: bool = False
    """Keep showing until the run ends or Ctrl-C is pressed (the run goes on)."""
    json: bool = False
    """Print the whole status as JSON."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


@dataclass(frozen=True)
class ScaleArguments:
    """Change how many actors a running run has (new ones start, surplus ones drain and leave), or give its
    replay more shards, which are used at once and stay the run's.
    """

    run: RunName
    """Name of the run under --runs-dir, or the path of its folder."""
    actors: Count = None
    """Actors the run shall have, 1 or more."""
    shards: Count = None
    """Embedded Redis servers the run shall have, more than now: none can be taken away."""
    add_urls: tuple[str, ...] = ()
    """Redis servers of your own for a run that has such, besides those that it has; `@FILE` as in train."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


@dataclass(frozen=True)
class StopArguments:
    """End a run cleanly: actors drain, the learner saves a checkpoint; `apexpert resume` goes on with it."""

    run: RunName
    """Name of the run under --runs-dir, or the path of its folder."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


@dataclass(frozen=True)
class ListArguments:
    """List the runs under --runs-dir, oldest first."""

    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


def status(argv: Sequence[str]) -> int:
    """Print a run's status, or follow it; gives the exit code."""
    arguments = parse(StatusArguments, argv, command="status")
    folder = RunFolder.open(arguments.run, arguments.runs_dir)
    if arguments.json:
        import json

        print(json.dumps(read_status(folder), indent=1))
    elif arguments.follow:
        _follow(folder)
    else:
        _print_status(read_status(folder))
    return 0


def scale(argv: Sequence[str]) -> int:
    """Ask a running run for another number of actors; gives the exit code."""
    arguments = parse(ScaleArguments, argv, command="scale")
    _check_scale(arguments)
    folder = RunFolder.open(arguments.run, arguments.runs_dir)
    config = folder.load_config()
    if config.run.lockstep and arguments.actors not in (None, 1):
        raise ConfigError(f"--actors {arguments.actors}: must be 1, because {folder.name} runs in lockstep")
    if config.run.lockstep and (arguments.shards is not None or arguments.add_urls):
        raise ConfigError(f"--shards, --add-urls: not while it runs, because {folder.name} runs in lockstep")
    wanted, added = _with_more_shards(config, arguments)
    check_not_renamed(folder)
    _require_live(folder)
    if added:
        from deploy.cli.run.ownership import claim_added

        try:
            claim_added(config, folder, added)
        except ConfigError as error:
            raise ConfigError(str(error).replace("--replay.urls", "--add-urls")) from None
    asked = []
    with _connected(folder) as client:
        if arguments.actors is not None:
            client.scale(arguments.actors)
            asked.append(f"{arguments.actors} actors")
        if wanted != config:
            client.add_shards(wanted.replay.shards, added)
            asked.append(f"{len(wanted.replay.urls) or wanted.replay.shards} shards")
    print(f"{folder.name}: {' and '.join(asked)} asked for; see {commands_for(folder, 'status')}")
    actors = arguments.actors
    if actors and not config.run.ray_address and (warning := summary.crowding(actors)):
        print(warning)
    return 0


def _check_scale(arguments: ScaleArguments) -> None:
    actors = arguments.actors
    if actors is None and arguments.shards is None and not arguments.add_urls:
        raise ConfigError("--actors, --shards or --add-urls: say what to change (apexpert scale --help)")
    if actors is not None and actors < 1:
        raise ConfigError(f"--actors {actors}: must be 1 or more; to end the run: apexpert stop")
    if actors is not None and actors > MOST_ACTORS:
        raise ConfigError(f"--actors {actors}: must be at most {MOST_ACTORS}")


def _with_more_shards(config: Config, arguments: ScaleArguments) -> tuple[Config, tuple[str, ...]]:
    """What the run shall be like, and URLs that are new; ConfigError for what cannot be added."""
    shards, replay = arguments.shards, config.replay
    if shards is not None:
        if replay.urls:
            raise ConfigError(f"--shards {shards}: the run has servers of your own: --add-urls adds one")
        if shards <= replay.shards:
            raise ConfigError(f"--shards {shards}: must be more than the {replay.shards} that the run has")
        config = with_values(config, replay__shards=shards)
    added: tuple[str, ...] = ()
    if arguments.add_urls:
        if not replay.urls:
            raise ConfigError("--add-urls: the run has embedded servers: --shards adds one")
        try:
            added = named_urls(arguments.add_urls)
            for url in added:
                config = with_shard(config, url)
            check(config)
            check_urls(added)
            check_urls(config.replay.urls, all_needed=False)
        except ConfigError as error:
            raise ConfigError(str(error).replace("--replay.urls", "--add-urls")) from None
    check(config)
    return config, added


def stop(argv: Sequence[str]) -> int:
    """Ask a running run to stop and wait until it has; gives the exit code."""
    arguments = parse(StopArguments, argv, command="stop")
    folder = RunFolder.open(arguments.run, arguments.runs_dir)
    state = read_status(folder)["state"]
    if state in FINAL_STATES:
        print(f"{folder.name}: {state} already")
        return 0
    check_not_renamed(folder)
    try:
        _require_live(folder)
        with _connected(folder) as client:
            client.stop()
            print(f"{folder.name}: stopping", flush=True)
            final = _wait_for_end(folder)
    except (RunError, CommandFailed) as error:
        final = _end_what_is_left(folder, error)
    print(f"{folder.name}: {final['state']}; checkpoint {folder.newest_checkpoint() or '-'}")
    print(f"go on with it: {commands_for(folder, 'resume')}")
    return 0


def _end_what_is_left(folder: RunFolder, error: Exception) -> dict[str, Any]:
    """A run that does not answer: end the Ray that it left, upon which its learner saves; else the error."""
    from deploy.fleet import end_leftovers

    with fleet_errors(folder):
        if not end_leftovers(folder):
            raise error
    print(f"{folder.name}: it did not answer ({error}); its processes were told to end", flush=True)
    deadline = time.monotonic() + STOP_SECONDS
    while folder.is_at_work() and time.monotonic() < deadline:
        time.sleep(0.2)
    final = read_status(folder)
    if final["state"] not in FINAL_STATES:
        raise CommandFailed(f"{folder.name}: its processes were told to end; it is {final['state']}")
    return final


def list_runs(argv: Sequence[str]) -> int:
    """Print one line a run; gives the exit code."""
    from rich.console import Console
    from rich.table import Table

    arguments = parse(ListArguments, argv, command="list")
    folders = run_folder.list_runs(arguments.runs_dir)
    if not folders:
        print(f"no runs under {arguments.runs_dir}")
        return 0
    table = Table("run", "game", "state", "env steps", "return", box=None, pad_edge=False)
    for folder in folders:
        table.add_row(*_row(folder))
    Console(soft_wrap=True, markup=False).print(table)
    return 0


def read_status(folder: RunFolder) -> dict[str, Any]:
    """status.json; `lost` when it says alive, was not written for 30 s, and nobody here is at work on it.

    Somebody at work whose status is old has a disk that is full, most likely: then the `message` says so.
    """
    status: dict[str, Any] = folder.read_json("status.json", None)
    if status is None:
        return {"run": folder.name, "state": "not started", "metrics": {}, "message": "", "time": 0.0}
    if status["state"] not in FINAL_STATES and "folder" in status and not folder.is_own(status):
        copied = "a copy of a run that was at work; go on with the copy"
        return status | {"state": "lost", "message": f"{copied}: {commands_for(folder, 'resume')}"}
    age = time.time() - status["time"]
    if status["state"] not in FINAL_STATES and age > STALE_SECONDS:
        if folder.is_at_work():
            why = renamed(folder) or "is the disk full?"
            return status | {"message": f"at work, but its status is {age:.0f} s old: {why}"}
        lost = f"no sign of it for {age:.0f} s; go on with it: {commands_for(folder, 'resume')}"
        return status | {"state": "lost", "message": lost}
    return status


@contextlib.contextmanager
def _connected(folder: RunFolder) -> Iterator[RunClient]:
    """The running run's client; what the fleet raises becomes one line."""
    from deploy.fleet import connect

    with fleet_errors(folder):
        client = connect(folder)
        try:
            yield client
        finally:
            client.close()


def _require_live(folder: RunFolder) -> None:
    status = read_status(folder)
    if status["state"] in FINAL_STATES | {"lost", "not started"}:
        message = f" ({status['message']})" if status.get("message") else ""
        raise RunError(f"{folder.name} is not running: {status['state']}{message}")


def _wait_for_end(folder: RunFolder) -> dict[str, Any]:
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        status = read_status(folder)
        if status["state"] in FINAL_STATES | {"lost"}:
            return status
        time.sleep(0.2)
    raise CommandFailed(f"{folder.name} has not stopped after {STOP_SECONDS:.0f} s; see {folder.log_path}")


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
                if status["state"] in FINAL_STATES | {"lost"}:
                    break
                time.sleep(0.5)
    finally:
        console.close()


def _print_status(status: Mapping[str, Any]) -> None:
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


def _row(folder: RunFolder) -> tuple[str, ...]:
    try:
        config, status = folder.load_config(), read_status(folder)
    except RunError as error:
        return folder.name, "-", f"broken: {error}", "-", "-"
    metrics = status["metrics"]
    steps = f"{int(metrics.get('progress/env_steps', 0)):,} / {config.run.total_env_steps:,}"
    mean = metrics.get("episode/return_mean_100")
    return folder.name, config.game_name, status["state"], steps, "-" if mean is None else f"{mean:.2f}"
