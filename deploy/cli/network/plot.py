"""`apexpert plot`: learning curves and diagnostics of runs as one picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from deploy.cli.errors import CommandFailed
from deploy.cli.parsing import parse
from deploy.cli.run.targets import PICTURES, file_target
from deploy.run.config import ConfigError
from deploy.run.folder import RunFolder


@dataclass(frozen=True)
class PlotArguments:
    """Draw the learning curves of runs as one picture, one panel a game, beside published seeds.

    With --group, or runs given as ARM=RUN,RUN: the mean over the seeds of each arm, with its 95 % interval:

      apexpert plot soft-1 soft-2 dense-1 dense-2 --group network.head
      apexpert plot soft=soft-1,soft-2 dense=dense-1,dense-2

    With --diagnostics: dormant neurons, ranks, expert shares, entropies, norms and TD errors over training.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Names of runs under --runs-dir, or paths of their folders."""
    against: Literal["frames", "hours"] = "frames"
    """What the horizontal axis counts; published seeds have no hours."""
    group: str = ""
    """Setting whose values are the arms, such as network.head; `arm` takes every setting that differs."""
    diagnostics: bool = False
    """Draw the diagnostics instead of the learning curves."""
    output: str = ""
    """File to write (.png, .pdf or .svg), or its folder; empty writes learning_curve.png or diagnostics.png
    into the first run's folder."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


def plot(argv: Sequence[str]) -> int:
    """Draw the picture; return the exit code."""
    arguments = parse(PlotArguments, argv, command="plot")
    if not arguments.runs:
        raise ConfigError("RUN is missing: name one run or more (see apexpert plot --help)")
    arms = _listed_arms(arguments)
    paths = [path for own in arms.values() for path in own]
    if arguments.diagnostics and (arguments.group or "" not in arms):
        raise ConfigError("--diagnostics: draws single runs; leave arms and --group out")
    if arguments.diagnostics and arguments.against != "frames":
        raise ConfigError(f"--against {arguments.against}: --diagnostics are drawn against env steps")
    name = "diagnostics.png" if arguments.diagnostics else "learning_curve.png"
    target = file_target("--output", arguments.output, paths[0] / name, PICTURES)
    from deploy.reports.curves.run_curves import CurveError

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        print(_draw(arguments, arms, paths, target))
    except ConfigError:  # A ValueError, but the user's.
        raise
    except (CurveError, OSError, ValueError) as error:
        raise CommandFailed(f"{target.name}: {error}") from None
    return 0


def _draw(
    arguments: PlotArguments, arms: Mapping[str, Sequence[Path]], paths: Sequence[Path], target: Path
) -> Path:
    from deploy.reports.curves.arms import draw_arms, group_runs
    from deploy.reports.curves.single_runs import draw_curves
    from deploy.reports.diagnostics_plot import draw_diagnostics

    if arguments.diagnostics:
        return draw_diagnostics(paths, target)
    if arguments.group:
        arms = group_runs(paths, arguments.group)
    elif "" in arms:
        return draw_curves(paths, target, against=arguments.against)
    return draw_arms(arms, target, against=arguments.against)


def _listed_arms(arguments: PlotArguments) -> dict[str, list[Path]]:
    """Return the run folders by arm: of `soft=a,b` under `soft`, of plain names under an empty label."""
    arms: dict[str, list[Path]] = {}
    for word in arguments.runs:
        label, equals, names = word.partition("=")
        # A folder's own name may have an equals sign in it.
        if not equals or Path(word).exists():
            label, names = "", word
        listed = names.split(",") if label else [names]
        arms.setdefault(label, []).extend(RunFolder.open(name, arguments.runs_dir).path for name in listed)
    if "" in arms and len(arms) > 1:
        raise ConfigError(f"{arguments.runs[0]}: give all runs as ARM=RUN,RUN or none")
    if "" not in arms and arguments.group:
        raise ConfigError(f"--group {arguments.group}: the runs are given with their arms already")
    return arms
