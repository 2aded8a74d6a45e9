"""`apexpert evaluate` and `apexpert plot`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from deploy.cli.control import RunName
from deploy.cli.errors import CommandFailed
from deploy.cli.follow import Interrupts
from deploy.cli.parsing import parse
from deploy.cli.preflight import with_checked_environment
from deploy.cli.targets import check_target
from deploy.config import ConfigError, with_values
from deploy.run_folder import RunFolder

if TYPE_CHECKING:
    from actors.episodes import Episode
    from deploy.reports.evaluation import EvaluationReport
    from learner.checkpoint import Checkpoint


@dataclass(frozen=True)
class EvaluateArguments:
    """Play full games with a run's newest checkpoint: sticky actions as trained, epsilon 0.001.

    Prints the scores, raw and human-normalised, and writes them beside the run as evaluation-update-N.json.
    """

    run: RunName
    """Name of the run under --runs-dir, or the path of its folder."""
    episodes: int = 0
    """Full games to play; 0 takes the run's own number (30)."""
    video: bool = False
    """Record the first game as videos/update-N.mp4."""
    best: bool = False
    """Take the best checkpoint by evaluation in place of the newest."""
    seed: int = 1
    """Seed of the games."""
    json: bool = False
    """Print the report as JSON."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


@dataclass(frozen=True)
class PlotArguments:
    """Draw the learning curves of runs as one PNG, beside the published ones of the same game.

    With --diagnostics: dormant neurons, ranks, expert shares, entropies, norms and TD errors over training.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Names of runs under --runs-dir, or paths of their folders."""
    diagnostics: bool = False
    """Draw the diagnostics in place of the learning curves."""
    output: str = ""
    """File to write; empty writes learning_curve.png or diagnostics.png into the first run's folder."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


def evaluate(argv: Sequence[str]) -> int:
    """Evaluate a checkpoint; gives the exit code."""
    arguments = parse(EvaluateArguments, argv, command="evaluate")
    if arguments.episodes < 0:
        raise ConfigError(
            f"--episodes {arguments.episodes}: must be 1 or more, or 0 for the run's own number"
        )
    folder = RunFolder.open(arguments.run, arguments.runs_dir)
    config = folder.load_config()
    episodes = arguments.episodes or config.evaluation.episodes
    config = with_checked_environment(with_values(config, evaluation__episodes=episodes))
    checkpoint = load_checkpoint(folder, best=arguments.best)
    from deploy.reports.evaluation import evaluate_checkpoint

    video = folder.videos / f"update-{checkpoint.update:09d}.mp4" if arguments.video else None
    if video:
        check_target("--video", video)
    if refusal := folder.refusal_to_write():
        print(f"WARNING: no report will be kept: {refusal}", file=sys.stderr, flush=True)
    print(
        f"{folder.name}: {checkpoint.path.name}, {episodes} full games of {config.game_name}", file=sys.stderr
    )
    with Interrupts() as interrupts:
        try:
            report = evaluate_checkpoint(
                config,
                checkpoint,
                episodes=episodes,
                seed=arguments.seed,
                video=video,
                progress=_print_episode,
                should_stop=lambda: interrupts.count > 0,
            )
        except ValueError as error:
            if not interrupts.count:
                raise
            raise CommandFailed(f"evaluation of {folder.name} ended before a game did") from error
    _print_report(report.to_json(), as_json=arguments.json)
    if not arguments.json and not report.video_failure:
        print(f"  video   {video}" if video else "  (--video records a game)")
    failure = _keep_report(folder, report, as_json=arguments.json)
    if failures := [text for text in (report.video_failure, failure) if text]:
        raise CommandFailed("; ".join(failures))
    return 0


def _keep_report(folder: RunFolder, report: "EvaluationReport", *, as_json: bool) -> str:
    """Write a report that has been shown; gives why that was not possible, empty if it was."""
    name = f"evaluation-update-{report.update:09d}.json"
    try:
        folder.write_json(name, report.to_json())
    except OSError as error:
        return f"the report cannot be written: {folder.path / name}: {error.strerror}"
    if not as_json:
        print(f"  report  {folder.path / name}")
    return ""


def plot(argv: Sequence[str]) -> int:
    """Draw learning curves; gives the exit code."""
    arguments = parse(PlotArguments, argv, command="plot")
    if not arguments.runs:
        raise ConfigError("RUN is missing: name one run or more (see apexpert plot --help)")
    folders = [RunFolder.open(name, arguments.runs_dir) for name in arguments.runs]
    name = "diagnostics.png" if arguments.diagnostics else "learning_curve.png"
    target = Path(arguments.output or folders[0].path / name)
    from deploy.reports.curves import CurveError, draw_curves
    from deploy.reports.diagnostics_plot import draw_diagnostics

    draw = draw_diagnostics if arguments.diagnostics else draw_curves
    try:
        print(draw([folder.path for folder in folders], target))
    except (CurveError, OSError, ValueError) as error:
        raise CommandFailed(f"{target.name}: {error}") from None
    return 0


def load_checkpoint(folder: RunFolder, *, best: bool) -> "Checkpoint":
    """The newest checkpoint of a run, or the best; CommandFailed when there is none."""
    from learner.checkpoint import CheckpointStore
    from learner.errors import CheckpointError

    store = CheckpointStore(folder.checkpoints)
    if not best:
        newest = store.load_newest()
        if newest is None:
            raise CommandFailed(f"{folder.name} has no checkpoint that is whole yet, in {folder.checkpoints}")
        return newest
    marked = store.best()
    if marked is None:
        raise CommandFailed(f"{folder.name} has no best checkpoint: it was trained without evaluations")
    try:
        return store.load(marked[0])
    except CheckpointError as error:
        raise CommandFailed(f"{marked[0]} is broken: {error}") from None


def _print_episode(episode: "Episode") -> None:
    message = f"  game over: return {episode.return_:,.0f} in {episode.length:,} env steps"
    print(message, file=sys.stderr, flush=True)


def _print_report(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, indent=1))
        return
    for name, value in report.items():
        if name in ("returns", "lengths"):
            continue
        shown = f"{value:,.3f}" if isinstance(value, float) else value
        print(f"  {name:<24} {shown}")
