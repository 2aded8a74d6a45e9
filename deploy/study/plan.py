"""The runs of a study: one for each game, arm and seed, each an ordinary run."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.run import presets
from deploy.run.checks import check
from deploy.run.config import (
    Config,
    ConfigError,
    flag_of,
    is_run_name,
    leaves,
    overlaid,
    paths_in,
    switched_off,
    with_values,
)
from deploy.study.errors import StudyError
from deploy.study.file import EVALUATION, Size, StudyFile, merged

ACTORS = 4
"""In the place of `auto`: each of a study's runs would take all cores, and several work at once."""


@dataclass(frozen=True)
class PlannedRun:
    """A run that the study asks for."""

    arm: str
    game: str
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """The name of its folder, in that of the study."""
        return self.config.run.name

    @property
    def words(self) -> list[str]:
        """The arguments of `apexpert train` that make it, in the study's folder and detached."""
        return words_of(self.config)


def plan(study: StudyFile, size: Size, runs_dir: Path, ray_address: str = "") -> list[PlannedRun]:
    """Return all runs, games and seeds outermost, so that every arm has come once before any comes twice.

    Raises StudyError naming the arm whose configuration is wrong, and ConfigError for a wrong `ray_address`.
    """
    where = {"run__runs_dir": str(runs_dir), "run__ray_address": ray_address, "run__detach": True}
    arms = {arm: with_values(_configured(study, size, arm), **where) for arm in size.arms}
    runs = [
        _planned(study, arm, game, seed, arms[arm])
        for seed in size.seeds
        for game in size.games
        for arm in size.arms
    ]
    names = Counter(run.name for run in runs)
    if twice := [name for name, count in names.items() if count > 1]:
        raise StudyError(f"{study.path}: {twice[0]}: two runs would have this name", path=study.path)
    return runs


def _configured(study: StudyFile, size: Size, arm: str) -> Config:
    """Return what all runs of an arm have in common."""
    fields = merged(study.base, study.arms[arm], size.fields)
    if study.primary_metric == EVALUATION:
        # The run's own evaluation of its last checkpoint; a period of the file's own stays.
        last = {"evaluation": {"every_env_steps": fields.get("run", {}).get("total_env_steps", 0)}}
        fields = merged(last, fields)
    try:
        base = presets.get_preset(str(fields.get("run", {}).get("preset", presets.DEFAULT)))
        config = presets.fitted(overlaid(base, fields), base, paths_in(fields))
        if config.actors.range.most is None:
            config = with_values(config, actors__num_actors=ACTORS)
        check(config)
        return config
    except ConfigError as error:
        message = str(error).removeprefix("config: ")
        raise StudyError(f"{study.path}: arm {arm}: {message}", path=study.path) from None


def _planned(study: StudyFile, arm: str, game: str, seed: int, config: Config) -> PlannedRun:
    name = f"{arm}-{_in_a_name(game)}-{seed}"
    if not is_run_name(name):
        raise StudyError(f"{study.path}: {name}: no run can have this name; shorten it", path=study.path)
    # A colon is in the name of every environment of another kind.
    if config.environment.env and ":" not in game:
        why = f"{game}: is an Atari game, and preset {config.run.preset} of arm {arm} plays none"
        raise StudyError(f"{study.path}: {why}; name others as {config.environment.env}", path=study.path)
    environment = {"environment__env" if ":" in game else "environment__game": game}
    return PlannedRun(arm, game, seed, with_values(config, run__name=name, run__seed=seed, **environment))


def _in_a_name(game: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in game).strip("-")


def words_of(config: Config) -> list[str]:
    """Return the flags of `apexpert train` that give this configuration, its preset first.

    Without preset they are all flags that differ from the default's.
    """
    preset = config.run.preset or presets.DEFAULT
    words = ["--preset", preset]
    before = leaves(presets.get_preset(preset))
    for path, value in leaves(config).items():
        if path != "run.preset" and value != before[path]:
            words += _flag(path, value)
    return words


def _flag(path: str, value: object) -> Iterator[str]:
    flag = flag_of(path)
    if value is True:
        yield flag
    elif value is False:
        yield switched_off(flag)
    elif isinstance(value, tuple):
        yield from (flag, *map(str, value))
    else:
        yield from (flag, repr(value) if isinstance(value, float) else str(value))
