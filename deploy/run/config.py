"""A run's whole configuration: one tree of frozen dataclasses, each part beside its owner.

Every field is a flag: `replay.segment_steps` is `--replay.segment-steps`; fields of `run` have no prefix
(`--total-env-steps`). The tree is saved with the run as JSON and read back under a schema check.
"""

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from actors.config import ActorConfig, EnvironmentConfig, ExplorationConfig
from apexpert.errors import ApexpertError
from apexpert.limits import SHARE, Ge, Gt, Interval, InWords, Predicate
from learner.config import FORMER_NAMES, LearnerConfig
from models.config import NetworkConfig, with_current_names
from replay.config import ReplayConfig


class ConfigError(ApexpertError):
    """A value cannot be used; the message is one line that names the flag and what is allowed."""


RUN_NAMES = "letters, digits, dots, dashes and underscores, a letter or digit first, at most 80"


def is_run_name(name: str) -> bool:
    """Whether a folder, a file and a Redis key can have that name; empty for a name made up later."""
    return not name or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name) is not None


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation of checkpoints during the run, and by `apexpert evaluate`."""

    every_env_steps: Annotated[int, Ge(0)] = 0
    """Env steps between two evaluations; 0 turns them off."""
    episodes: Annotated[int, Gt(0)] = 30
    """Full games per evaluation."""
    epsilon: Annotated[float, SHARE] = 0.001
    """Epsilon while evaluating."""


@dataclass(frozen=True)
class RunConfig:
    """The run as a whole: its name, its length and where it is stored."""

    preset: str = ""
    """Named set of defaults; an unknown name prints all of them."""
    name: Annotated[str, Predicate(is_run_name), InWords(RUN_NAMES)] = ""
    """Name of the run and of its folder under --runs-dir; empty makes one from preset, game and time."""
    seed: Annotated[int, Interval(ge=0, lt=2**63), InWords("0 to 2**63 - 1")] = 0
    """Seed of all random draws."""
    total_env_steps: Annotated[int, Gt(0)] = 50_000_000
    """Env steps at which the run is finished, counted from its very beginning, also if it was resumed."""
    max_hours: Annotated[float, Ge(0)] = 0.0
    """Hours, of all legs together, after which the run is finished; 0: no limit."""
    until_return: float = 1e15
    """Mean return of the last 100 nearly greedy episodes at which the run is finished; the default is out
    of reach."""
    runs_dir: Annotated[str, Predicate(str.strip), InWords("a folder's name")] = "runs"
    """Folder that holds the runs' folders."""
    checkpoints_to: str = ""
    """URL of a folder (such as s3://BUCKET/FOLDER or file:///FOLDER) to which each checkpoint is copied too;
    `apexpert resume URL/NAME` resumes it from there on any machine."""
    init_from: str = ""
    """Run, model file or bundled model (`bundled:pong`) whose weights a new run begins with."""
    ray_address: str = ""
    """Ray cluster to run on (`auto` finds one started on this machine); empty takes that of $RAY_ADDRESS, and
    without the variable, or with `local`, a private one is started."""
    failover: bool = True
    """On a Ray cluster, move the learner to another node when its node dies, which takes --runs-dir on
    storage that all nodes share. Without it the learner stays on the node of this command."""
    detach: bool = False
    """Start the run and return to the shell; control it with `apexpert status` and `apexpert stop`."""
    lockstep: bool = False
    """Reproducible run: one actor with one environment that waits for the learner after each segment."""


@dataclass(frozen=True)
class Config:
    """Everything that defines a run."""

    run: RunConfig = field(default_factory=RunConfig)
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    actors: ActorConfig = field(default_factory=ActorConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @property
    def samples_per_insert(self) -> float:
        """Transitions drawn per transition inserted; the ratio that the limiter keeps."""
        return self.learner.batch_size / self.learner.update_period

    @property
    def game_name(self) -> str:
        """Name the environment that the run plays: `env` if it is given, else the Atari game."""
        return self.environment.env or self.environment.game


def flag_of(path: str) -> str:
    """Return the flag of a field: `replay.n_step` gives `--replay.n-step`, `run.seed` gives `--seed`."""
    section, name = path.split(".")
    name = name.replace("_", "-")
    return f"--{name}" if section == "run" else f"--{section}.{name}"


def switched_off(flag: str) -> str:
    """Return the form of a switch that turns it off: `--replay.no-prioritized`, `--no-lockstep`."""
    return flag.replace(".", ".no-", 1) if "." in flag else flag.replace("--", "--no-")


def leaves(config: Config) -> dict[str, Any]:
    """Return every field as `section.name` -> value, in the order of the tree."""
    return {
        f"{section.name}.{leaf.name}": getattr(getattr(config, section.name), leaf.name)
        for section in dataclasses.fields(config)
        for leaf in dataclasses.fields(getattr(config, section.name))
    }


@functools.cache
def leaf_limits() -> dict[str, tuple[Any, ...]]:
    """Every field as `section.name` -> markers of what it may be (apexpert/limits.py), none for most."""
    return {
        f"{section}.{name}": getattr(annotation, "__metadata__", ())
        for section, owner in get_type_hints(Config).items()
        for name, annotation in get_type_hints(owner, include_extras=True).items()
    }


def leaf_types() -> dict[str, Any]:
    """Return every field as `section.name` -> its type annotation."""
    return {
        f"{section}.{name}": annotation
        for section, owner in get_type_hints(Config).items()
        for name, annotation in get_type_hints(owner).items()
    }


def with_values(config: Config, **values: Any) -> Config:
    """Return a copy with some fields replaced, given as `section__name=value` (`replay__shards=3`)."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, name = key.split("__")
        sections.setdefault(section, {})[name] = value
    replaced = {s: dataclasses.replace(getattr(config, s), **changes) for s, changes in sections.items()}
    return dataclasses.replace(config, **replaced)


def with_shard(config: Config, url: str) -> Config:
    """Return a copy with one more of the user's own Redis servers."""
    urls = (*config.replay.urls, url)
    # Beside URLs, only the default number of embedded servers passes the checks.
    # A file of URLs, if the run has one, does not name the new server.
    return with_values(config, replay__urls=urls, replay__urls_file="", replay__shards=ReplayConfig().shards)


def without_places(config: Config) -> Config:
    """Return a copy that names no folder, server or file of the machine that it was made on."""
    return with_values(
        config,
        run__runs_dir=RunConfig().runs_dir,
        run__ray_address="",
        run__checkpoints_to="",
        run__init_from="",
        replay__urls=(),
        replay__urls_file="",
        replay__folder="",
    )


def describe_type(annotation: Any) -> str:
    """Return what a flag of this type accepts, in words for an error message."""
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(str, get_args(annotation)))
    if isinstance(annotation, UnionType):
        # `... | None`: the flag may be omitted.
        return " or ".join(describe_type(kind) for kind in get_args(annotation) if kind is not NoneType)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(annotation, "a list of texts")


def to_json(config: Config) -> dict[str, Any]:
    """Return the tree as JSON-able dicts."""
    return {
        section: {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
        for section, values in dataclasses.asdict(config).items()
    }


def from_json(document: Any) -> Config:
    """Invert `to_json`.

    A missing field gets its default and a renamed one its new name, so that runs of older versions stay
    readable. Raises ConfigError on an unknown section or field and on a value of the wrong type.
    """
    sections = get_type_hints(Config)
    _check_keys(document, sections, "config")
    return Config(**{name: _section(name, sections[name], value) for name, value in document.items()})


def overlaid(config: Config, fields: Mapping[str, Any]) -> Config:
    """Return `config` with other values, section -> name -> value; ConfigError names a wrong one."""
    document = to_json(config)
    for section, values in fields.items():
        known = document.get(section)
        if not isinstance(values, Mapping) or known is None:
            document[section] = values  # Refused by from_json, which says why.
        else:
            document[section] = known | _with_current_names(section, values)
    return from_json(document)


def paths_in(fields: Mapping[str, Any]) -> frozenset[str]:
    """Return the fields that are set, as `replay.n_step`, of section -> name -> value."""
    return frozenset(
        f"{section}.{name}"
        for section, values in fields.items()
        if isinstance(values, Mapping)
        for name in values
    )


def _section(section: str, owner: type, document: Any) -> Any:
    hints = get_type_hints(owner)
    if isinstance(document, dict):
        # Before the check of keys, which knows no earlier names.
        document = _with_current_names(section, document)
    _check_keys(document, hints, f"config: {section}")
    return owner(**{name: _value(f"{section}.{name}", hints[name], v) for name, v in document.items()})


def _with_current_names(section: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    if section == "network":
        return with_current_names(fields)
    former = FORMER_NAMES if section == "learner" else {}
    return {former.get(name, name): value for name, value in fields.items()}


def _check_keys(document: Any, known: Mapping[str, Any], where: str) -> None:
    if not isinstance(document, dict):
        raise ConfigError(f"{where}: expected named fields, found {document!r:.60}")
    for key in document:
        if key not in known:
            raise ConfigError(f"{where}: unknown field {key!r}; known are {', '.join(known)}")


@contextlib.contextmanager
def saved_in(path: Path, flags: Container[str] = ()) -> Iterator[None]:
    """Make a ConfigError about a saved configuration name the file that it is saved in.

    `flags`: those by which the command replaces saved values; an error about one of them stays as it is.
    """
    try:
        yield
    except ConfigError as error:
        if error.flag is None or error.flag in flags:
            raise
        raise ConfigError(f"{path}: {error}", path=path) from None


def hide_password(text: str) -> str:
    """`text` with the passwords of all URLs in it replaced by `***`: safe to print and log.

    Everything between the user's name and the last `@` of a URL counts as the password, so that one with
    characters that should have been escaped is hidden as a whole; so is the option `?password=`.
    """
    hidden = re.sub(r"(://[^\s:@/]*):\S*@", r"\1:***@", text)
    return re.sub(r"([?&]\w*password=)[^\s&]+", r"\1***", hidden)


def _value(path: str, annotation: Any, value: Any) -> Any:
    """Return `value` as the field's type; JSON has no tuples and writes 10.0 as 10."""
    if get_origin(annotation) is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif get_origin(annotation) is Literal:
        if value in get_args(annotation):
            return value
    elif annotation is float:
        # In Python a bool is an int, and true is no number.
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    elif isinstance(annotation, UnionType):
        if type(value) in get_args(annotation):
            return value
    elif type(value) is annotation:
        return value
    shown = hide_password(repr(value))[:60]
    raise ConfigError(f"config: {path} ({flag_of(path)}) is {shown}; allowed is {describe_type(annotation)}")
