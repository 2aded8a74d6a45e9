"""A study's file: the question, and the arms, games and seeds that are to answer it.

[study]                        # name, question, hypotheses, primary_metric, stop_rule
[base.run]                     # fields of every run, a table for each section, as in --config
preset = "paper-dqn"
[arms.soft-8.network]          # what this arm changes; or, in place of arms, their product:
[factors.experts.8.network]    # factor `experts`, level `8`; arms are called dqn-soft-8
[sizes.full]                   # games, seeds, and the env steps of each run
[sizes.lite]                   # and, if wanted, a subset of the arms, and fields of its own
"""

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Self

from apexpert.errors import one_line
from deploy.run.checks import near_matches
from deploy.run.config import is_run_name
from deploy.study.errors import StudyError

Fields = Mapping[str, Any]
"""Section -> field -> value, as in the file of --config."""
FINAL, EVALUATION = "final return", "evaluation"
METRICS = (FINAL, EVALUATION)
"""final return: mean return of the last 100 nearly greedy training episodes; evaluation: mean score of
the final checkpoint in full games."""
TOP = ("study", "base", "arms", "factors", "sizes")
STUDY = {"name": str, "question": str, "hypotheses": list, "primary_metric": str, "stop_rule": str}
SIZE = {"games": list, "seeds": list, "total_env_steps": int, "arms": list, "set": dict}
SMOKE = "smoke"
"""A size that every study has: each arm once, on the first game, for a few updates."""
SMOKE_FIELDS: Fields = {
    "run": {"total_env_steps": 600},
    "environment": {"max_frames_per_episode": 400},
    "replay": {"min_size": 200, "capacity": 2_000, "segment_steps": 16},
    "actors": {"num_actors": 1, "envs_per_actor": 2},
    "learner": {
        "update_period": 16,
        "batch_size": 16,
        "checkpoint_period": 10,
        "diagnostics_period": 10,
    },
    "evaluation": {"episodes": 2},
}
"""What the smoke size sets: a run that is over in seconds and passes through every part."""


@dataclass(frozen=True)
class Size:
    """How much of a study is run."""

    name: str
    games: tuple[str, ...]
    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    fields: Fields


@dataclass(frozen=True)
class StudyFile:
    """A study as its file states it; `text` is the file's, byte for byte."""

    path: Path
    text: bytes
    name: str
    question: str
    hypotheses: tuple[str, ...]
    primary_metric: str
    stop_rule: str
    base: Fields
    arms: Mapping[str, Fields]
    sizes: Mapping[str, Size]

    @classmethod
    def read(cls, name: str) -> Self:
        """Read a file, or a study that comes with Apexpert by its name; StudyError names file and field."""
        path = find(name)
        try:
            text = path.read_bytes()
            document = tomllib.loads(text.decode())
        except OSError as error:
            raise StudyError(f"{path}: {error.strerror}", path=path) from None
        except ValueError as error:  # A TOMLDecodeError names line and column.
            raise StudyError(f"{path}: {one_line(error)}", path=path) from None
        try:
            return cls(path=path, text=text, **_parsed(document))
        except StudyError as error:
            raise StudyError(f"{path}: {error}", path=path) from None

    def size(self, name: str) -> Size:
        """Return one of its sizes; StudyError for another name."""
        if name not in self.sizes:
            raise StudyError(f"--size {name}: {self.path} has {', '.join(self.sizes)}", path=self.path)
        return self.sizes[name]


def find(name: str) -> Path:
    """Return the path of a study's file: a path, or the name of a study that comes with Apexpert."""
    if Path(name).is_file():
        return Path(name)
    own = shipped()
    if name in own:
        return own[name]
    known = near_matches(name, own) or f"; with Apexpert come {', '.join(own)}"
    raise StudyError(f"{name}: no such file and no study of that name{known}")


def shipped() -> dict[str, Path]:
    """Return the studies that come with Apexpert, by name."""
    folder = Path(str(resources.files("deploy").joinpath("studies")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _parsed(document: dict[str, Any]) -> dict[str, Any]:
    _known(document, TOP, "")
    study = _typed(document.get("study", {}), STUDY, "study")
    for field in STUDY:
        if not study.get(field):
            raise StudyError(f"study.{field}: is missing; say it before the first run starts")
    if not is_run_name(study["name"]):
        raise StudyError(f"study.name {study['name']!r}: must be a run's name")
    if study["primary_metric"] not in METRICS:
        raise StudyError(f"study.primary_metric {study['primary_metric']!r}: must be {' or '.join(METRICS)}")
    if bool(document.get("arms")) == bool(document.get("factors")):
        raise StudyError("arms: give either [arms.NAME.…] or [factors.FACTOR.LEVEL.…]")
    arms = _tables(document, "arms") if "arms" in document else _product(_tables(document, "factors"))
    if wrong := [name for name in arms if not is_run_name(name)]:
        raise StudyError(f"arms.{wrong[0]}: an arm is a part of its runs' names: no such name")
    sizes = {name: _size(name, table, arms) for name, table in _tables(document, "sizes").items()}
    if not sizes:
        raise StudyError("sizes: give one at least, such as [sizes.full]")
    if SMOKE not in sizes:
        first = next(iter(sizes.values()))
        sizes[SMOKE] = Size(SMOKE, first.games[:1], first.seeds[:1], tuple(arms), SMOKE_FIELDS)
    study["hypotheses"] = tuple(map(str, study["hypotheses"]))
    return study | {"base": document.get("base", {}), "arms": arms, "sizes": sizes}


def _size(name: str, table: Any, arms: Mapping[str, Fields]) -> Size:
    size = _typed(table, SIZE, f"sizes.{name}")
    games, seeds = tuple(size.get("games", ())), tuple(size.get("seeds", ()))
    if not games or not all(isinstance(game, str) for game in games):
        raise StudyError(f"sizes.{name}.games: must be a list of games, with one at least")
    if not seeds or not all(type(seed) is int for seed in seeds):
        raise StudyError(f"sizes.{name}.seeds: must be a list of whole numbers, with one at least")
    for what, values in {"games": games, "seeds": seeds}.items():
        if len(set(values)) < len(values):
            raise StudyError(f"sizes.{name}.{what}: one stands there twice")
    chosen = tuple(size.get("arms", arms))
    if strange := [arm for arm in chosen if arm not in arms]:
        raise StudyError(f"sizes.{name}.arms: no arm {strange[0]!r}{near_matches(str(strange[0]), arms)}")
    fields = merged(SMOKE_FIELDS if name == SMOKE else {}, size.get("set", {}))
    if "total_env_steps" in size:
        fields["run"] = {"total_env_steps": size["total_env_steps"]} | dict(fields.get("run", {}))
    return Size(name, games, seeds, chosen, fields)


def _product(factors: Mapping[str, Any]) -> dict[str, Fields]:
    """Return an arm for each choice of a level of every factor, named by the levels."""
    arms: dict[str, Fields] = {}
    for factor, levels in factors.items():
        if not isinstance(levels, dict) or not levels:
            raise StudyError(f"factors.{factor}: must have levels, such as [factors.{factor}.LEVEL.network]")
    for levels in itertools.product(*(levels.items() for levels in factors.values())):
        arms["-".join(name for name, _ in levels)] = merged(*(fields for _, fields in levels))
    return arms


def merged(*layers: Fields) -> dict[str, Any]:
    """Return the fields of all layers, a later one's in place of an earlier one's."""
    sections: dict[str, Any] = {}
    for layer in layers:
        for section, values in layer.items():
            both = isinstance(values, dict) and isinstance(sections.get(section, {}), dict)
            sections[section] = sections.get(section, {}) | values if both else values
    return sections


def _tables(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name, {})
    if not isinstance(found, dict) or not all(isinstance(table, dict) for table in found.values()):
        raise StudyError(f"{name}: must be tables, such as [{name}.NAME]")
    return found


def _typed(table: Any, types: Mapping[str, type], where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise StudyError(f"{where}: must be a table")
    _known(table, types, f"{where}.")
    for field, value in table.items():
        if type(value) is not types[field]:
            raise StudyError(f"{where}.{field} {value!r}: must be a {types[field].__name__}")
    return dict(table)


def _known(table: Mapping[str, Any], known: Any, where: str) -> None:
    for field in table:
        if field not in known:
            hint = near_matches(field, known) or f"; known are {', '.join(known)}"
            raise StudyError(f"{where}{field}: no such field of a study{hint}")
