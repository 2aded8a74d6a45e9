"""`apexpert evaluate`."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deploy.cli.errors import CommandFailed
from deploy.cli.parsing import parse
from deploy.cli.run.follow import Interrupts
from deploy.cli.run.targets import check_target
from deploy.networks.trained import Trained, TrainedName, open_trained
from deploy.run.checks import check_limits
from deploy.run.config import Config, ConfigError, with_values
from deploy.run.folder import RunFolder

if TYPE_CHECKING:
    from actors.episodes import Episode
    from deploy.reports.evaluation import EvaluationReport

NO_INTERVAL = "no interval: too many games ended alike"


@dataclass(frozen=True)
class EvaluateArguments:
    """Play full games with a run's newest checkpoint: sticky actions as trained, epsilon 0.001.

    Prints the scores, raw and human-normalised, and writes them into the run's folder as
    evaluation-update-N-seed-S.json, with -games-G behind the seed for another number of games than its own.
    """

    run: TrainedName
    """Name of the run under --runs-dir, the path of its folder, a file of `apexpert export`, or the
    bundled:pong that comes with Apexpert."""
    episodes: int = 0
    """Full games to play; 0 takes the run's own number (30)."""
    video: bool = False
    """Record the first game as videos/update-N-seed-S.mp4."""
    best: bool = False
    """Take the best checkpoint by evaluation instead of the newest."""
    seed: int = 1
    """Seed of the games."""
    all: bool = False
    """Evaluate every network that --learner.keep-every kept, and the newest checkpoint; draw the curve."""
    without: Literal["nothing", "mixture", "residual"] = "nothing"
    """Part to remove from the network first: the mixture's output is replaced by its mean over states, or
    nothing bypasses the mixture."""
    output: str = ""
    """Folder for report and video; empty takes the run's, or the current one for a model."""
    json: bool = False
    """Print the report as JSON."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


def evaluate(argv: Sequence[str]) -> int:
    """Evaluate a checkpoint; return the exit code."""
    arguments = parse(EvaluateArguments, argv, command="evaluate")
    if arguments.episodes < 0:
        raise ConfigError(
            f"--episodes {arguments.episodes}: must be 1 or more, or 0 for the run's own number"
        )
    check_limits("run.seed", arguments.seed)
    if arguments.all:
        from deploy.cli.network.evaluate_all import evaluate_all

        return evaluate_all(arguments)
    trained = open_trained(arguments.run, arguments.runs_dir, best=arguments.best)
    episodes = arguments.episodes or trained.config.evaluation.episodes
    home, without = RunFolder(trained.home(arguments.output)), arguments.without
    removed = f"-without-{without}" if without != "nothing" else ""
    stem = f"{trained.stem}-seed-{arguments.seed}{removed}"
    games = games_in_name(episodes, trained.config)
    name = f"evaluation-{trained.stem}-seed-{arguments.seed}{games}{removed}.json"
    video = trained.videos(arguments.output) / f"{stem}.mp4" if arguments.video else None
    if video:
        check_target("--video", video)
    if arguments.output:
        check_target("--output", home.path / name)
    elif refusal := home.refusal_to_write():
        # Scores are shown even where they cannot be kept, as in another user's run.
        print(f"WARNING: no report will be kept: {refusal}", file=sys.stderr, flush=True)
    report = _played(arguments, trained, episodes, video)
    # Shown before it is written: a full disk must not cost games that were played.
    _print_report(report.to_json(), as_json=arguments.json)
    if not arguments.json and not report.video_failure:
        print(f"  video   {video}" if video else "  (--video records a game)")
    failure = _keep_report(home, name, report, as_json=arguments.json)
    if failures := [text for text in (report.video_failure, failure) if text]:
        raise CommandFailed("; ".join(failures))
    return 0


def games_in_name(episodes: int, config: Config) -> str:
    """Return what names a report's number of games; empty for the run's own number."""
    return f"-games-{episodes}" if episodes not in (0, config.evaluation.episodes) else ""


def _played(
    arguments: EvaluateArguments, trained: Trained, episodes: int, video: Path | None
) -> "EvaluationReport":
    """Play the games that are asked for, told one by one; raise ConfigError or CommandFailed."""
    from deploy.reports.ablation import WithoutPart
    from deploy.reports.evaluation import evaluate_checkpoint

    config = with_values(trained.config, evaluation__episodes=episodes)
    title = f"{trained.name}: {trained.checkpoint.path.name}, {episodes} full games of {config.game_name}"
    # On stderr, because --json prints the report alone.
    print(title, file=sys.stderr)
    with Interrupts() as interrupts:
        try:
            return evaluate_checkpoint(
                config,
                trained.checkpoint,
                episodes=episodes,
                seed=arguments.seed,
                without="" if arguments.without == "nothing" else arguments.without,
                video=video,
                progress=print_episode,
                should_stop=lambda: interrupts.count > 0,
            )
        except WithoutPart as error:
            raise ConfigError(f"--without {arguments.without}: {trained.name}: {error}") from None
        except ValueError as error:
            # Only an interrupted evaluation may lack a whole game; otherwise this is a fault.
            if not interrupts.count:
                raise
            raise CommandFailed(f"evaluation of {trained.name} ended before a game did") from error


def _keep_report(folder: RunFolder, name: str, report: "EvaluationReport", *, as_json: bool) -> str:
    """Write a report that has been shown; return why that failed, empty if it did not."""
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_json(name, report.to_json())
    except OSError as error:
        return f"the report cannot be written: {folder.path / name}: {error.strerror}"
    if not as_json:
        print(f"  report  {folder.path / name}")
    return ""


def print_episode(episode: "Episode") -> None:
    """Report on stderr how a game ended."""
    message = f"  game over: return {episode.return_:,.0f} in {episode.length:,} env steps"
    print(message, file=sys.stderr, flush=True)


def _print_report(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, indent=1))
        return
    for line in report_lines(report):
        print(line)


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """Return an evaluation's known results as lines, each statistic with its interval."""
    lines = []
    for name, value in report.items():
        if value is None or isinstance(value, list):
            continue
        lines.append(f"  {name:<24} {shown(report, name)}")
    return lines


def shown(report: Mapping[str, Any], name: str) -> str:
    """Return one known result of an evaluation as text, a statistic with its interval."""
    value = report[name]
    text = format(value, {float: ",.3f", int: ","}.get(type(value), ""))
    if f"{name}_interval" not in report:
        return text
    interval = report[f"{name}_interval"]
    return text + (" (95 %: {:,.3f} to {:,.3f})".format(*interval) if interval else f" ({NO_INTERVAL})")
