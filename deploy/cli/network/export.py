"""`apexpert export`: a run's network as one file that plays anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.cli.errors import CommandFailed
from deploy.cli.parsing import parse
from deploy.cli.run.targets import file_target
from deploy.networks.trained import TrainedName, open_trained


@dataclass(frozen=True)
class ExportArguments:
    """Write the network of a run's newest checkpoint as one file.

    The file plays wherever Apexpert is installed: evaluate, show and play accept it instead of a run. It
    holds the online network and the run's configuration; to continue training, keep the run's folder.

      apexpert export RUN --output pong.safetensors
      apexpert play pong.safetensors
    """

    run: TrainedName
    """Name of the run under --runs-dir, or the path of its folder."""
    output: str = ""
    """File to write, NAME.safetensors, or its folder; empty takes the run's name, in the current folder."""
    best: bool = False
    """Take the best checkpoint by evaluation instead of the newest."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


def export(argv: Sequence[str]) -> int:
    """Write the file; return the exit code."""
    arguments = parse(ExportArguments, argv, command="export")
    trained = open_trained(arguments.run, arguments.runs_dir, best=arguments.best)
    from deploy.networks.model_file import SUFFIX, Model, save_model

    target = file_target("--output", arguments.output, Path(f"{trained.name}{SUFFIX}"), (SUFFIX,))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_model(Model(trained.config, trained.checkpoint), target)
    except OSError as error:
        raise CommandFailed(f"{target}: {error.strerror or error}") from None
    print(f"{target}  ({target.stat().st_size / 1e6:.1f} MB, update {trained.checkpoint.update:,})")
    return 0
