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
from deploy.reports.statistics import score_key
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
KINDS = {str: "a text", list: "a list", int: "a whole number", dict: "a table"}
SIZE = {"games": list, "seeds": list, "total_env_steps": int, "arms": list, "set": dict}
OWN = (
    "run.name",
    "run.seed",
    "run.runs_dir",
    "run.ray_address",
    "run.detach",
    "environment.game",
    "environment.env",
)
"""Fields that a study sets for each run, from its games and seeds and from its command."""
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
        if not _said(study.get(field)):
            raise StudyError(f"study.{field}: is missing; say it before the first run starts")
    if not is_run_name(study["name"]):
        raise StudyError(f"study.name {study['name']!r}: must be a run's name")
    if study["primary_metric"] not in METRICS:
        raise StudyError(f"study.primary_metric {study['primary_metric']!r}: must be {' or '.join(METRICS)}")
    if bool(document.get("arms")) == bool(document.get("factors")):
        raise StudyError("arms: give either [arms.NAME.…] or [factors.FACTOR.LEVEL.…]")
    base = _fields(document.get("base", {}), "base")
    arms = _tables(document, "arms") if document.get("arms") else _product(_tables(document, "factors"))
    for arm, fields in arms.items():
        _fields(fields, f"arms.{arm}")
    if wrong := [name for name in arms if not is_run_name(name)]:
        raise StudyError(f"arms.{wrong[0]}: an arm is a part of its runs' names: no such name")
    sizes = {name: _size(name, table, arms) for name, table in _tables(document, "sizes").items()}
    if wrong := [name for name in sizes if not (name and is_run_name(name))]:
        raise StudyError(f"sizes.{wrong[0]}: a size is a part of its folder's name: no such name")
    if not sizes:
        raise StudyError("sizes: give one at least, such as [sizes.full]")
    if SMOKE not in sizes:
        first = next(iter(sizes.values()))
        sizes[SMOKE] = Size(SMOKE, first.games[:1], first.seeds[:1], tuple(arms), SMOKE_FIELDS)
    study["hypotheses"] = tuple(study["hypotheses"])
    return study | {"base": base, "arms": arms, "sizes": sizes}


def _size(name: str, table: Any, arms: Mapping[str, Fields]) -> Size:
    size = _typed(table, SIZE, f"sizes.{name}")
    games, seeds = tuple(size.get("games", ())), tuple(size.get("seeds", ()))
    chosen = tuple(size.get("arms", arms))
    if not games or not all(map(_said, games)):
        raise StudyError(f"sizes.{name}.games: must be a list of games, with one at least")
    if not seeds or not all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds):
        raise StudyError(f"sizes.{name}.seeds: must be a list of whole numbers, 0 or more, with one at least")
    if strange := [arm for arm in chosen if not isinstance(arm, str) or arm not in arms]:
        raise StudyError(f"sizes.{name}.arms: no arm {strange[0]!r}{near_matches(str(strange[0]), arms)}")
    if not chosen:
        raise StudyError(f"sizes.{name}.arms: must have one at least; leave it out for all of them")
    # Two spellings of a game are one game, whose runs would count twice.
    for what, values in {"games": tuple(map(score_key, games)), "seeds": seeds, "arms": chosen}.items():
        if len(set(values)) < len(values):
            raise StudyError(f"sizes.{name}.{what}: one stands there twice")
    own = _fields(size.get("set", {}), f"sizes.{name}.set")
    fields = merged(SMOKE_FIELDS if name == SMOKE else {}, own)
    if "total_env_steps" in size:
        fields["run"] = {"total_env_steps": size["total_env_steps"]} | dict(fields.get("run", {}))
    return Size(name, games, seeds, chosen, fields)


def _product(factors: Mapping[str, Any]) -> dict[str, Fields]:
    """Return an arm for each choice of a level of every factor, named by the levels."""
    arms: dict[str, Fields] = {}
    for factor, levels in factors.items():
        if not isinstance(levels, dict) or not levels:
            raise StudyError(f"factors.{factor}: must have levels, such as [factors.{factor}.LEVEL.network]")
        for level, fields in levels.items():
            _fields(fields, f"factors.{factor}.{level}")
    for levels in itertools.product(*(levels.items() for levels in factors.values())):
        arm = "-".join(name for name, _ in levels)
        if arm in arms:
            raise StudyError(f"factors: two choices of levels are called {arm}")
        arms[arm] = merged(*(fields for _, fields in levels))
    return arms


def merged(*layers: Fields) -> dict[str, Any]:
    """Return the fields of all layers, a later one's in place of an earlier one's."""
    sections: dict[str, Any] = {}
    for layer in layers:
        for section, values in layer.items():
            both = isinstance(values, dict) and isinstance(sections.get(section, {}), dict)
            sections[section] = sections.get(section, {}) | values if both else values
    return sections


def _fields(table: Any, where: str) -> Fields:
    """Return fields in their sections; StudyError where they are not, or where the study sets one itself."""
    if not isinstance(table, dict) or not all(isinstance(values, dict) for values in table.values()):
        raise StudyError(f"{where}: must be tables of fields, such as [{where}.network]")
    for section, values in table.items():
        if taken := [name for name in values if f"{section}.{name}" in OWN]:
            raise StudyError(f"{where}.{section}.{taken[0]}: is set for each run by the study; leave it out")
    return table


def _said(value: Any) -> bool:
    """Whether it is a text, or a list of texts, of which none is blank."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(part, str) and part.strip() for part in value)
    return isinstance(value, str) and bool(value.strip())


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
            raise StudyError(f"{where}.{field} {value!r}: must be {KINDS[types[field]]}")
    return dict(table)


def _known(table: Mapping[str, Any], known: Any, where: str) -> None:
    for field in table:
        if field not in known:
            hint = near_matches(field, known) or f"; known are {', '.join(known)}"
            raise StudyError(f"{where}{field}: no such field of a study{hint}")
