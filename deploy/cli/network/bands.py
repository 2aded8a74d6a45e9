"""`apexpert bands`: a run beside published seeds, and what such a comparison can show."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from deploy.cli.errors import CommandFailed, UsageError
from deploy.cli.parsing import parse
from deploy.cli.run.targets import PICTURES, file_target
from deploy.run.config import Config, ConfigError
from deploy.run.folder import RunFolder

if TYPE_CHECKING:
    from deploy.reports.seeds.bands import Bands
    from deploy.reports.seeds.published import PublishedCurve

PICTURE = "bands.png"


@dataclass(frozen=True)
class BandsArguments:
    """Set a run's mean returns beside five published seeds of the same game and agent, a million frames each.

    An episode counts for the window of 250,000 env steps in which it ended. With 99 % confidence, one more
    seed of the published agent falls into the interval shown beside them. Without a run:

      apexpert bands --power Boxing --agent rainbow

    shows how much such a comparison can tell.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = ""
    """Name of the run under --runs-dir, or the path of its folder."""
    power: Annotated[str, tyro.conf.arg(metavar="GAME")] = ""
    """Instead of a run: show the windows of this game in which a run that stays at its first window, or one
    that gains half as much as the published agent, would fall outside the interval."""
    agent: str = ""
    """Published agent: dqn, c51, rainbow, qr-dqn (or quantile) or iqn; empty takes the one whose values, n
    and replay the run has."""
    encoder: Literal["", "nature", "impala"] = ""
    """Encoder of the published agent; empty takes the run's, or nature for --power."""
    windows: int = 20
    """Number of windows that --power covers; after the 20th only every fifth is available."""
    json: bool = False
    """Print JSON instead of rows; the picture is then drawn with --output only."""
    output: str = ""
    """File of the picture, or its folder; empty writes bands.png into the run's folder."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


def bands(argv: Sequence[str]) -> int:
    """Print the rows of a run, or of `--power`; return the exit code."""
    arguments = parse(BandsArguments, argv, command="bands")
    if arguments.power:
        _check_power(arguments)
        _show_power(arguments)
    elif arguments.run:
        _show_run(arguments, RunFolder.open(arguments.run, arguments.runs_dir))
    else:
        raise UsageError("RUN is missing: name a run, or a game by --power GAME (see apexpert bands --help)")
    return 0


def _check_power(arguments: BandsArguments) -> None:
    if arguments.run:
        raise ConfigError(f"--power {arguments.power}: is of a game alone; leave {arguments.run!r} out")
    if arguments.output:
        raise ConfigError(f"--output {arguments.output}: --power draws no picture")
    if not arguments.agent:
        raise ConfigError("--agent: say whose seeds --power is about: dqn, c51, rainbow, qr-dqn or iqn")
    if arguments.windows < 1:
        raise ConfigError(f"--windows {arguments.windows}: must be 1 or more")


def _show_power(arguments: BandsArguments) -> None:
    from deploy.reports.seeds import band_power, bands_table

    curve = _curve(arguments.power, arguments.agent, arguments.encoder or "nature", "--power ")
    rows = band_power.power(curve, arguments.windows)
    if arguments.json:
        print(json.dumps(band_power.document(curve, rows), indent=1))
    else:
        bands_table.print_power(curve, rows)


def _show_run(arguments: BandsArguments, folder: RunFolder) -> None:
    from deploy.reports.seeds import bands as report
    from deploy.reports.seeds import bands_table
    from deploy.reports.seeds.episodes import NoEpisodes, read_run_episodes

    config = folder.load_config()
    from deploy.reports.seeds.expectation import agent_of

    agent = arguments.agent or agent_of(config)
    if not agent:
        raise ConfigError(
            f"--agent: {folder.name} has the values, n and replay of no published agent; say which one"
            " (dqn, c51, rainbow, qr-dqn or iqn)"
        )
    curve = _curve(config.game_name, agent, arguments.encoder or _published_encoder(config))
    target = None
    if arguments.output or not arguments.json:
        target = file_target("--output", arguments.output, folder.path / PICTURE, PICTURES)
    try:
        run = read_run_episodes(folder, config)
    except NoEpisodes as error:
        raise CommandFailed(str(error)) from None
    compared = report.compare(run, curve)
    if arguments.json:
        print(json.dumps(report.document(folder.name, run, compared), indent=1))
    else:
        bands_table.print_bands(folder.name, run, compared)
    if target is not None:
        _draw(folder.name, compared, target, arguments.json)


def _draw(name: str, compared: "Bands", target: Path, quiet: bool) -> None:
    from deploy.reports.seeds.bands_plot import draw_bands

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        drawn = draw_bands(name, compared, target)
    except OSError as error:
        raise CommandFailed(f"--output {target}: {error}") from None
    # With --json, standard output is the document alone.
    if not quiet:
        print(f"  picture {drawn}")


def _curve(game: str, agent: str, encoder: str, flag: str = "") -> "PublishedCurve":
    from deploy.reports.seeds.published import NotPublished, agent_named, published_curve

    try:
        key = agent_named(agent)
    except NotPublished as error:
        raise ConfigError(str(error)) from None
    # A `try` of its own: only this error can be about the game that --power names.
    try:
        return published_curve(game, key, encoder)
    except NotPublished as error:
        raise ConfigError(f"{flag}{error}") from None


def _published_encoder(config: Config) -> str:
    from deploy.reports.seeds.published import ENCODERS

    if config.network.encoder not in ENCODERS:
        raise ConfigError(f"--encoder: {config.network.encoder} is no published one; say nature or impala")
    return config.network.encoder
