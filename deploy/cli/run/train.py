"""`apexpert train` and `apexpert resume`."""

import contextlib
import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import tyro

from deploy.cli.errors import CommandFailed, UsageError
from deploy.cli.output import is_lost, why_lost
from deploy.cli.parsing import as_typed, expand_short, flag_value, parse
from deploy.cli.run import summary
from deploy.cli.run.follow import FORCED_CODE, Forced, Interrupts, RunClient, follow
from deploy.cli.run.preflight import (
    URLS_VARIABLE,
    named_urls,
    preflight,
    with_urls_of_environment,
    with_urls_of_today,
)
from deploy.run import presets
from deploy.run.checks import check, hide_password
from deploy.run.config import Config, ConfigError, RunConfig, with_values
from deploy.run.folder import RunFolder


@dataclass(frozen=True)
class TrainArguments(Config):
    """Start a run in the foreground: Ctrl-C ends it with a checkpoint, and `apexpert resume` goes on with it.

    A preset (--preset, default laptop) sets every flag below; what you give replaces its value.

      apexpert train --preset laptop --game Pong
      apexpert train --preset paper-rainbow --game MsPacman --actors 8 --detach

    Presets: paper-rainbow, paper-dqn, paper-dqn-nature, der, apex, laptop, dopamine-dqn, dopamine-c51,
    dopamine-rainbow, dopamine-qr-dqn. Short flags: --game, --env, --actors, --envs-per-actor, --shards,
    --batch-size, --learning-rate, --device, --encoder, --head, --experts.
    """

    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)


T = TypeVar("T", bound=TrainArguments)


@dataclass(frozen=True)
class ResumeArguments:
    """Go on with a run that was stopped or crashed, from its newest checkpoint, replay included."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Name of the run under --runs-dir, or the path of its folder."""
    total_env_steps: int = 0
    """New end of the run in env steps since its very beginning; 0 keeps the old one."""
    actors: int = 0
    """Actors to start with; 0 keeps the run's own number."""
    ray_address: str = ""
    """Ray cluster to run on; empty keeps the run's own, `local` starts a private local one."""
    detach: bool = False
    """Give the terminal back; `apexpert status` and `apexpert stop` go on from there."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


def train(argv: Sequence[str]) -> int:
    """Start a new run and, unless detached, stay with it until it ends; gives the exit code."""
    try:
        config = configure(argv)
    except (ConfigError, UsageError) as error:
        raise type(error)(as_typed(str(error), argv)) from None
    folder = RunFolder.create(config)
    config = folder.load_config()
    with _leaving_no_folder(folder):
        _claim_new(config, folder)
    _announce(config, folder)
    if any(hide_password(word) != word for word in argv):
        note = "other users of this machine see a password in arguments"
        print(f"note: {note}; ${URLS_VARIABLE} or --replay.urls @FILE hides it")
    return _run(config, folder)


def resume(argv: Sequence[str]) -> int:
    """Go on with an existing run; gives the exit code."""
    arguments = parse(ResumeArguments, argv, command="resume")
    folder = RunFolder.open(arguments.run, arguments.runs_dir)
    try:
        with folder.lock():
            folder.unshare()
            before = folder.load_config()
            config = resumed_config(folder, arguments)
            _claim_resumed(config, folder)
            folder.save_config(config)
    except ConfigError as error:
        raise ConfigError(as_typed(str(error), argv)) from None
    _announce(config, folder)
    return _run(config, folder, before=before)


def configure(argv: Sequence[str]) -> Config:
    """The checked configuration that `argv` asks for: preset first, then every flag given."""
    default = presets.PRESETS[presets.DEFAULT]
    arguments = parse_config(TrainArguments, argv, command="train", default=lambda: default)
    config = with_urls_of_environment(config_of(arguments))
    check(config)
    return preflight(config)


def parse_config(kind: type[T], argv: Sequence[str], *, command: str, default: Callable[[], Config]) -> T:
    """`argv` as a `kind` of arguments: the preset that it names (else `default`), then every flag given.

    Raises ConfigError or UsageError.
    """
    full = expand_short(argv)
    given = any(token.partition("=")[0] == "--preset" for token in full)
    base = presets.get_preset(flag_value(full, "--preset") or "") if given else default()
    return parse(kind, full, command=command, default=kind(**_sections(base)))


def config_of(arguments: TrainArguments) -> Config:
    """The plain configuration in `arguments`, checked; raises ConfigError."""
    config = presets.fitted(Config(**_sections(arguments)))
    config = with_values(config, replay__urls=named_urls(config.replay.urls))
    check(config)
    return config


def resumed_config(folder: RunFolder, arguments: ResumeArguments) -> Config:
    """The saved configuration with what `resume` was given; ConfigError when nothing would be left to do."""
    config = with_urls_of_today(folder.load_config())
    status = folder.read_json("status.json", {})
    total = arguments.total_env_steps or config.run.total_env_steps
    if status.get("state") == "finished" and total <= config.run.total_env_steps:
        raise ConfigError(f"--total-env-steps {total}: the run is finished already; give a larger number")
    done = int(status.get("metrics", {}).get("progress/env_steps", 0))
    if arguments.total_env_steps and total < done:
        raise ConfigError(f"--total-env-steps {total}: the run has made {done} already; give a larger number")
    address = arguments.ray_address or config.run.ray_address
    config = with_values(
        config,
        run__runs_dir=str(folder.path.parent),
        run__total_env_steps=total,
        run__ray_address="" if address == "local" else address,
        run__detach=arguments.detach,
        actors__num_actors=arguments.actors or config.actors.num_actors,
    )
    check(config)
    return preflight(config, resumes=True)


def commands_for(folder: RunFolder, verb: str) -> str:
    """The exact command line that does `verb` with this run from here."""
    return f"apexpert {verb} {folder.reference}"


def _sections(config: Config) -> dict[str, Any]:
    return {part.name: getattr(config, part.name) for part in dataclasses.fields(Config)}


def _announce(config: Config, folder: RunFolder) -> None:
    print(f"run {folder.name}: {config.game_name}, {config.run.total_env_steps:,} env steps, {folder.path}")
    for line in summary.config_lines(config):
        print(f"  {line}")
    print(summary.burst_line(config))
    print(summary.memory_line(config))
    print(summary.disk_line(config, folder.path), flush=True)
    if not config.run.ray_address and (warning := summary.crowding(config.actors.num_actors)):
        print(warning, flush=True)


def _run(config: Config, folder: RunFolder, *, before: Config | None = None) -> int:
    """`before`: it is resumed, and this was its configuration until now."""
    from deploy.reports.seeds.expectation import expectation

    with Interrupts() as interrupts:
        expects = expectation(config)
        client = _launch(config, folder, before)
        if config.run.detach:
            client.close()
            print(f"detached. Follow it: {commands_for(folder, 'status')} --follow")
            print(f"End it:              {commands_for(folder, 'stop')}")
            return 0
        try:
            with fleet_errors(folder):
                status = _watch(config, folder, client, interrupts, expects)
        except Forced:
            print(f"ended at once. Go on from the last checkpoint: {commands_for(folder, 'resume')}")
            return FORCED_CODE
        finally:
            _shut_down(client)
    return _report(status, folder, asked=interrupts.count > 0)


def _shut_down(client: RunClient) -> None:
    """End what is left of the run; it has ended itself, so what is left is no failure of it."""
    from deploy.fleet.errors import FleetError

    try:
        client.shutdown()
    except FleetError as error:
        print(f"WARNING: {error}", file=sys.stderr)


def _launch(config: Config, folder: RunFolder, before: Config | None) -> RunClient:
    """Start the run; one that cannot start because of a flag leaves no folder, or the one that was there."""
    from deploy.fleet import launch
    from deploy.fleet.errors import WrongFlag

    try:
        with fleet_errors(folder):
            return launch(config, folder, resume=before is not None)
    except OSError:
        if before is not None:
            folder.save_config(before)
        raise
    except CommandFailed as failure:
        if before is not None:
            folder.save_config(before)
        if not isinstance(failure.__cause__, WrongFlag):
            raise
        if before is None:
            from deploy.cli.run.ownership import release_new

            release_new(config)
            shutil.rmtree(folder.path)
        raise ConfigError(str(failure.__cause__)) from None


def _claim_new(config: Config, folder: RunFolder) -> None:
    """Take the shards of the user's own for a new run; ConfigError when they hold one of its name."""
    if config.replay.urls:
        from deploy.cli.run.ownership import claim_new

        claim_new(config, folder)


def _claim_resumed(config: Config, folder: RunFolder) -> None:
    """The same for a folder that goes on, which has an identity from now on if it had none."""
    identity = folder.drawn_identity()
    if config.replay.urls:
        from deploy.cli.run.ownership import claim_resumed

        claim_resumed(config, folder, identity)
    folder.settle(identity)


@contextlib.contextmanager
def _leaving_no_folder(folder: RunFolder) -> Iterator[None]:
    """A new run that must not start leaves no folder."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder.path)
        raise


@contextlib.contextmanager
def fleet_errors(folder: RunFolder) -> Iterator[None]:
    """What the fleet and replay raise becomes CommandFailed, one line."""
    from deploy.fleet.errors import FleetError
    from replay.errors import ReplayError

    try:
        yield
    except (FleetError, ReplayError) as error:
        raise CommandFailed(f"run {folder.name}: {error}; see {folder.log_path}") from error


def _watch(
    config: Config,
    folder: RunFolder,
    client: RunClient,
    interrupts: Interrupts,
    expects: Callable[[float], str],
) -> dict[str, Any]:
    from deploy.monitor.console import Console

    console = Console(f"{folder.name} ({config.game_name})", expects=expects)
    try:
        hint = f"; go on: {commands_for(folder, 'resume')}"
        return follow(client, console.update, interrupts, hint=hint, unseen=is_lost)
    finally:
        console.close()


def _report(status: Mapping[str, Any], folder: RunFolder, *, asked: bool) -> int:
    """Print what the run came to and how to go on; gives the exit code.

    `asked`: it was this command that ended it.
    """
    for line in summary.end_lines(status):
        print(line)
    checkpoint = folder.newest_checkpoint()
    print(f"  checkpoint          {checkpoint or '-'}")
    print(f"  learning curve      {learning_curve(folder)}")
    if status["state"] == "failed":
        raise CommandFailed(
            f"run {folder.name} failed: {status.get('message') or 'no reason given'};"
            f" see {folder.log_path}, then: {commands_for(folder, 'resume')}"
        )
    if status["state"] == "stopped":
        print(f"go on with it:        {commands_for(folder, 'resume')}")
    if status["state"] == "stopped" and is_lost() and not asked:
        raise CommandFailed(
            f"run {folder.name} was stopped, because its output cannot be written: {why_lost()};"
            f" go on: {commands_for(folder, 'resume')}"
        )
    if status["state"] == "stopped" and status.get("message") and not asked:
        raise CommandFailed(f"run {folder.name} was ended from outside: {status['message']}")
    return 0


def learning_curve(folder: RunFolder) -> str:
    """Path of the learning curve that was drawn, or why there is none."""
    from deploy.reports.curves import CurveError, draw_learning_curve

    try:
        return str(draw_learning_curve(folder.path))
    except CurveError:
        return "- (no episode has ended yet)"
    except OSError as error:
        return f"- (cannot be written: {error.strerror})"
