"""`apexpert train` and `apexpert resume`."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import tyro

from actors.config import Actors
from deploy.cli.cluster import again as retry
from deploy.cli.cluster.waiting import Waiting
from deploy.cli.errors import UsageError
from deploy.cli.output import is_lost, wrap
from deploy.cli.parsing import as_typed, expand_short, fields_for_flags, parse
from deploy.cli.run import summary
from deploy.cli.run.base import BaseOptions, base_of
from deploy.cli.run.config_file import to_toml
from deploy.cli.run.elsewhere import OfUploads, opened_or_fetched
from deploy.cli.run.follow import (
    FORCED_CODE,
    LOST_SECONDS,
    MOVING_SECONDS,
    Forced,
    Interrupts,
    RunClient,
    follow,
)
from deploy.cli.run.idle_flags import given_fields, print_idle
from deploy.cli.run.section_help import print_help
from deploy.run import presets
from deploy.run.checks import check
from deploy.run.config import Config, ConfigError, RunConfig, hide_password
from deploy.run.folder import RunFolder
from deploy.run.preflight import (
    URLS_VARIABLE,
    origin_of_ray,
    preflight,
    with_checked_environment,
    with_named_urls,
    with_ray_of_environment,
    with_urls_of_environment,
)


@dataclass(frozen=True)
class TrainArguments(Config):
    """Start a run in the foreground: Ctrl-C ends it with a checkpoint, and `apexpert resume` resumes it.

    A preset (--preset, default laptop) sets every flag below; each flag you give replaces its value.

      apexpert train --preset laptop --game Pong
      apexpert train --preset paper-rainbow --game MsPacman --actors 8 --detach
      apexpert train --preset laptop --print-config > pong.toml
      apexpert train --config pong.toml --seed 2
      apexpert train --like RUN --network.head dense
      apexpert train --resume-if-there --name NAME --game Pong

    Presets: paper-rainbow, paper-dqn, paper-dqn-nature, der, apex, laptop, dopamine-dqn, dopamine-c51,
    dopamine-rainbow, dopamine-qr-dqn, minatar-dqn. Short flags: --game, --env, --actors,
    --envs-per-actor, --shards, --batch-size, --learning-rate, --device, --encoder, --head, --experts.
    """

    # An empty name: flags of `run` have no prefix (UNPREFIXED in deploy/cli/parsing.py).
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    base: Annotated[BaseOptions, tyro.conf.arg(name="")] = field(default_factory=BaseOptions)
    again: Annotated[retry.AgainOptions, tyro.conf.arg(name="")] = field(default_factory=retry.AgainOptions)


T = TypeVar("T", bound=TrainArguments)


@dataclass(frozen=True)
class ResumeArguments:
    """Resume a run that was stopped or crashed, from its newest checkpoint, replay included."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Name of the run under --runs-dir, the path of its folder, or the URL of its uploaded checkpoints."""
    total_env_steps: int = 0
    """New end of the run in env steps, counted from its very beginning; 0 keeps the old one."""
    max_hours: float | None = None
    """New limit of hours, of all legs together; 0: no limit. Omitted, it keeps the old one."""
    until_return: float | None = None
    """New mean return of the last 100 nearly greedy episodes at which the run is finished."""
    actors: Annotated[Actors, tyro.conf.arg(metavar="INT|auto|auto:MIN-MAX")] = 0
    """Actors from now on, as in train; 0 keeps what the run was started with or last scaled to."""
    ray_address: str = ""
    """Ray cluster to run on; empty takes that of $RAY_ADDRESS, and without it keeps the run's own; `local`
    starts a private local one."""
    failover: bool = True
    """--no-failover keeps the learner on the node of this command from now on, as in train."""
    detach: bool = False
    """Return to the shell; control the run with `apexpert status` and `apexpert stop`."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""
    elsewhere: Annotated[OfUploads, tyro.conf.arg(name="")] = field(default_factory=OfUploads)


def train(argv: Sequence[str]) -> int:
    """Start a new run and, unless detached, stay with it until it ends; return the exit code."""
    try:
        config, there = configure(argv)
        print_idle(config, argv)
        if there is not None:
            return _resume_again(there, config, argv)
        from deploy.fleet import operations  # Ray takes a second: mistakes are reported before.

        folder = operations.create(config)
        _announce(folder)
        if any(hide_password(word) != word for word in argv):
            note = "other users of this machine see a password in arguments"
            print(f"note: {note}; ${URLS_VARIABLE} or --replay.urls @FILE hides it")
        # From here on Ctrl-C stops the run in order; before, there is nothing to stop.
        with Interrupts() as interrupts:
            expects = _expectation(folder)
            client = operations.start_new(folder, waiting=Waiting(interrupts))
            end = _stay_with(client, folder, interrupts, expects)
    except (ConfigError, UsageError) as error:
        raise type(error)(as_typed(str(error), argv)) from None
    return end if isinstance(end, int) else summary.report(end, folder, asked=interrupts.count > 0)


def resume(argv: Sequence[str]) -> int:
    """Resume an existing run; return the exit code."""
    arguments = parse(ResumeArguments, argv, command="resume")
    folder = opened_or_fetched(arguments.run, arguments.runs_dir, arguments.elsewhere)
    names = {"run", "runs_dir", "elsewhere"}
    changes = {name: value for name, value in vars(arguments).items() if name not in names}
    return _resume(folder, argv, ResumeArguments, num_actors=changes.pop("actors"), **changes)


def _resume_again(folder: RunFolder, config: Config, argv: Sequence[str]) -> int:
    """Resume a run that is there already with the configuration asked for; return the exit code."""
    changes = retry.changes(folder, config, retry.given_in(argv))
    # Before it is looked whether anything is left to do: the run may reach its end meanwhile.
    retry.wait_until_left(folder)
    if retry.is_finished(folder, changes):
        print(f"{folder.name}: finished already; checkpoint {folder.newest_checkpoint() or '-'}")
        return 0
    print(retry.told(folder, changes))
    run = config.run
    return _resume(folder, argv, TrainArguments, ray_address=run.ray_address, detach=run.detach, **changes)


def _resume(folder: RunFolder, argv: Sequence[str], kind: type, **changes: Any) -> int:
    """Resume the run with these changes, for the command with arguments `kind`; return the exit code."""
    from deploy.fleet import operations

    expects: list[Callable[[float], str]] = []
    with contextlib.ExitStack() as stack:
        interrupts = Interrupts()

        def announce(_: Config) -> None:
            """Say what is about to start; until then Ctrl-C ends the command at once."""
            _announce(folder, kind)
            expects.append(_expectation(folder))
            stack.enter_context(interrupts)

        try:
            client = operations.resume(folder, announce=announce, waiting=Waiting(interrupts), **changes)
        except ConfigError as error:
            raise ConfigError(as_typed(str(error), argv)) from None
        end = _stay_with(client, folder, interrupts, expects[0])
    return end if isinstance(end, int) else summary.report(end, folder, asked=interrupts.count > 0)


def configure(argv: Sequence[str]) -> tuple[Config, RunFolder | None]:
    """Return the checked configuration that `argv` asks for: preset first, then every flag given.

    With it comes the folder of the run that is to be resumed instead, None for a new run.
    """
    default = presets.PRESETS[presets.DEFAULT]
    arguments = parse_config(TrainArguments, argv, command="train", default=lambda: default)
    config = with_urls_of_environment(config_of(arguments))
    if arguments.again.resume_if_there and (folder := retry.there(config)) is not None:
        # Its Ray and shards are looked at when it is resumed.
        return with_checked_environment(config), folder
    config = with_ray_of_environment(config)
    # Once more, now with the environment's URLs.
    check(config)
    return preflight(config), None


def parse_config(kind: type[T], argv: Sequence[str], *, command: str, default: Callable[[], Config]) -> T:
    """Parse `argv` into a `kind` of arguments: its preset (else `default`), run or file, then every flag.

    For --print-config it prints and raises SystemExit(0). Raises ConfigError, RunError or UsageError.
    """
    full = expand_short(argv)
    # As tyro's defaults, the values of preset, run and file are what --help shows.
    base = kind(**_sections(base_of(full, default)))
    print_help(base, full, command)
    arguments = parse(kind, full, command=command, default=base)
    given = given_fields(full)
    # An unset variable in a shell, say. Over a run with servers of its own it asks for embedded ones.
    if "replay.urls" in given and not (arguments.replay.urls or base.replay.urls):
        raise UsageError("--replay.urls: needs a value; name one server or more, or leave the flag out")
    fitting = presets.fitted(Config(**_sections(arguments)), base, given)
    arguments = dataclasses.replace(arguments, **_sections(fitting))
    if arguments.base.print_config:
        config_of(arguments)  # Checked, but printed as typed: without the passwords in a file of URLs.
        print(to_toml(fitting), end="")
        raise SystemExit(0)
    return arguments


def config_of(arguments: TrainArguments) -> Config:
    """Return the plain configuration in `arguments`, checked; raise ConfigError."""
    # Without what `bench` and `model` add to the arguments, which is no part of a run.
    config = Config(**_sections(arguments))
    config = with_named_urls(config)
    check(config)
    return config


def _sections(config: Config) -> dict[str, Any]:
    return {part.name: getattr(config, part.name) for part in dataclasses.fields(Config)}


def _announce(folder: RunFolder, kind: type = TrainArguments) -> None:
    """Print what is about to start, for the command with arguments `kind`."""
    config = folder.load_config()
    print(f"run {folder.name}: {config.game_name}, {config.run.total_env_steps:,} env steps, {folder.path}")
    for line in summary.config_lines(config):
        print(line)
    notes = [summary.burst_line(config), summary.memory_line(config)]
    notes.append(summary.disk_line(config, folder.path))
    notes += summary.place_lines(config, folder)
    # On a cluster actors are anywhere, and the cores of this machine say nothing.
    notes.append("" if config.run.ray_address else summary.crowding(config.actors.num_actors))
    # A setting is lowered by a flag of `train`; afterwards it is in the run's config.json.
    notes = [fields_for_flags(note, kind) for note in notes]
    print("\n".join(line for note in notes for line in wrap(note, rest="  ")))
    address = config.run.ray_address
    where = f"on the Ray at {address}{origin_of_ray(address)}" if address else "and its Ray"
    print(f"starting the run's supervisor {where} ...", flush=True)


def _expectation(folder: RunFolder) -> Callable[[float], str]:
    from deploy.reports.seeds.expectation import expectation

    return expectation(folder.load_config())


def _stay_with(
    client: RunClient, folder: RunFolder, interrupts: Interrupts, expects: Callable[[float], str]
) -> dict[str, Any] | int:
    """Show the run until it ends; return its last status, or the exit code if it is left or cut off."""
    from deploy.fleet.operations import naming_the_log

    if folder.load_config().run.detach:
        client.close()
        print(f"detached. Follow it: {folder.command('status')} --follow")
        print(f"End it:              {folder.command('stop')}")
        return 0
    try:
        with naming_the_log(folder):
            return _watch(folder, client, interrupts, expects)
    except Forced:
        print(f"ended at once. Resume from the last checkpoint: {folder.command('resume')}")
        return FORCED_CODE
    finally:
        _shut_down(client)


def _shut_down(client: RunClient) -> None:
    """End what is left of the run; the run itself has ended, so leftovers are no failure of it."""
    from deploy.fleet.errors import FleetError

    try:
        client.shutdown()
    except FleetError as error:
        print(f"WARNING: {error}", file=sys.stderr)


def _watch(
    folder: RunFolder, client: RunClient, interrupts: Interrupts, expects: Callable[[float], str]
) -> dict[str, Any]:
    from deploy.monitor.console import Console

    config = folder.load_config()
    console = Console(f"{folder.name} ({config.game_name})", expects=expects)
    lost = MOVING_SECONDS if config.run.ray_address else LOST_SECONDS
    try:
        hint = f"; resume it: {folder.command('resume')}"
        return follow(client, console.update, interrupts, hint=hint, unseen=is_lost, lost_seconds=lost)
    finally:
        console.close()
