"""Finds what can play: a run by name or folder, a file of `apexpert export`, or a bundled model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from deploy.run.checks import near_matches
from deploy.run.config import Config, ConfigError, saved_in
from deploy.run.folder import RunFolder
from deploy.run.preflight import with_checked_environment

if TYPE_CHECKING:
    from learner.checkpoint import Checkpoint

TrainedName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True)
class Trained:
    """A trained network, and where it comes from."""

    name: str
    config: Config
    checkpoint: "Checkpoint"
    folder: RunFolder | None
    """The run's folder; None for a model."""

    @property
    def stem(self) -> str:
        """Prefix for names of files about it, in the run's folder or, for a model, anywhere."""
        return f"update-{self.checkpoint.update:09d}" if self.folder else self.name

    def home(self, output: str) -> Path:
        """Return the folder for reports: `output` if given, else the run's or, for a model, this one."""
        return Path(output) if output or not self.folder else self.folder.path

    def videos(self, output: str) -> Path:
        """Return the folder for pictures, for which a run's folder has a separate one."""
        return Path(output) if output or not self.folder else self.folder.videos


def open_trained(name: str, runs_dir: str, *, best: bool) -> Trained:
    """Open what `name` stands for: a run's newest checkpoint, or its best one, or a model.

    Raises ConfigError, RunNotFound or CheckpointError when it, or its environment, does not exist.
    """
    # Imported here: these load torch, which help and mistakes do without.
    from deploy.networks.model_file import BUNDLED, SUFFIX, bundled_models, load_model

    if not name.startswith(BUNDLED) and not name.endswith(SUFFIX):
        folder = RunFolder.open(name, runs_dir)
        with saved_in(folder.config_path):
            config = with_checked_environment(folder.load_config())
        return Trained(folder.name, config, load_checkpoint(folder, best=best), folder)
    if best:
        raise ConfigError(f"--best: {name} is one network; only a run has a best one")
    path = Path(name)
    if name.startswith(BUNDLED):
        known, wanted = bundled_models(), name.removeprefix(BUNDLED)
        if wanted not in known:
            there = f"; there are {', '.join(known)}" if known else "; none comes with this version"
            raise ConfigError(f"{name}: no model of that name{near_matches(wanted, known) or there}")
        path = known[wanted]
    model = load_model(path)
    with saved_in(path):
        config = with_checked_environment(model.config)
    return Trained(path.stem, config, model.checkpoint, None)


def load_checkpoint(folder: RunFolder, *, best: bool) -> "Checkpoint":
    """Return a run's newest checkpoint, or its best; raise CheckpointError when there is none."""
    from learner.checkpoint import CheckpointStore
    from learner.errors import CheckpointError

    store = CheckpointStore(folder.checkpoints)
    if not best:
        newest = store.load_newest()
        if newest is None:
            why = f"{folder.name} has no checkpoint that is whole yet, in {folder.checkpoints}"
            raise CheckpointError(why, path=folder.checkpoints)
        return newest
    marked = store.best()
    if marked is None:
        raise CheckpointError(f"{folder.name} has no best checkpoint: it was trained without evaluations")
    try:
        return store.load(marked[0])
    except CheckpointError as error:
        raise CheckpointError(f"{marked[0]} is broken: {error}", path=marked[0]) from None
