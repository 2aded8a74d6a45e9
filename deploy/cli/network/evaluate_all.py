"""`apexpert evaluate RUN --all`: every network that a run has kept, as a curve of evaluations."""

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from deploy.cli.errors import CommandFailed
from deploy.cli.network.look import EvaluateArguments, games_in_name, shown
from deploy.cli.run.follow import Interrupts
from deploy.cli.run.targets import check_target
from deploy.networks.trained import Trained, open_trained
from deploy.run.config import ConfigError
from deploy.run.folder import RunFolder

if TYPE_CHECKING:
    from deploy.reports.evaluation import EvaluationReport
    from learner.checkpoint import Checkpoint


def evaluate_all(arguments: EvaluateArguments) -> int:
    """Evaluate them, print and keep the results, draw them; return the exit code."""
    given = {
        "--video": arguments.video,
        "--best": arguments.best,
        "--without": arguments.without != "nothing",
    }
    if refused := [flag for flag, there in given.items() if there]:
        raise ConfigError(f"{refused[0]}: is not for --all")
    trained = open_trained(arguments.run, arguments.runs_dir, best=False)
    if trained.folder is None:
        raise ConfigError(f"--all: {trained.name} is one network; only a run has more")
    home = RunFolder(trained.home(arguments.output))
    games = games_in_name(arguments.episodes, trained.config)
    target = home.path / f"evaluations-seed-{arguments.seed}{games}.json"
    check_target("--output" if arguments.output else "--all", target)
    reports = _reports(arguments, trained, list(_kept(trained, trained.folder)))
    rows = [report.to_json() for report in reports]
    home.path.mkdir(parents=True, exist_ok=True)
    home.write_json(target.name, rows)
    from deploy.reports.evaluations_plot import draw_evaluations

    picture = draw_evaluations(trained.name, rows, target.with_suffix(".png"), trained.config)
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        print(f"  report  {target}")
        print(f"  curve   {picture}")
    return 0


def _kept(trained: Trained, folder: RunFolder) -> Iterator["Checkpoint"]:
    """Yield the kept networks by update, and the newest checkpoint last; ConfigError if none is kept."""
    from deploy.networks.model_file import kept_networks, load_model, number_of_file

    files = kept_networks(folder)
    if not files:
        raise ConfigError(
            f"--all: {folder.name} has kept no network: apexpert train --learner.keep-every N does"
        )
    # A resume may have gone back: networks beyond the newest checkpoint are of a part that is gone.
    for path in files:
        if number_of_file(path) < trained.checkpoint.update:
            yield load_model(path).checkpoint
    yield trained.checkpoint


def _reports(
    arguments: EvaluateArguments, trained: Trained, checkpoints: list["Checkpoint"]
) -> list["EvaluationReport"]:
    """Evaluate each and say so; when interrupted, return those that are done, at least one."""
    from deploy.reports.evaluation import evaluate_checkpoint

    episodes = arguments.episodes or trained.config.evaluation.episodes
    game = trained.config.game_name
    print(
        f"{trained.name}: {len(checkpoints)} networks, {episodes} full games of {game} each", file=sys.stderr
    )
    reports: list[EvaluationReport] = []
    with Interrupts() as interrupts:
        for number, checkpoint in enumerate(checkpoints, 1):
            try:
                report = evaluate_checkpoint(
                    trained.config,
                    checkpoint,
                    episodes=episodes,
                    seed=arguments.seed,
                    should_stop=lambda: interrupts.count > 0,
                )
            except ValueError:
                # Only an interrupted evaluation may lack a whole game; otherwise this is a fault.
                if not interrupts.count:
                    raise
            if interrupts.count:  # Games that were cut off make a mean of the short ones.
                break
            reports.append(report)
            steps, mean = f"{report.env_steps:,} env steps", shown(report.to_json(), "return_mean")
            print(f"  {number} of {len(checkpoints)}: {steps}: {mean}", file=sys.stderr)
    if not reports:
        raise CommandFailed(f"evaluation of {trained.name} ended before a network was evaluated")
    return reports
