"""What came out of a study: a row for every run that it asks for, also for those that failed."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.monitor.bands import last_return
from deploy.reports.statistics import human_normalised
from deploy.run.errors import RunError
from deploy.run.status import read_status
from deploy.study.driver import WAITING
from deploy.study.errors import StudyError
from deploy.study.file import EVALUATION, StudyFile
from deploy.study.folder import FILE, RECORD, StudyFolder
from deploy.study.plan import PlannedRun, plan

EVALUATED = "evaluation/return_mean"


@dataclass(frozen=True)
class RunResult:
    """A run of a study; `score` is the study's primary metric, None before the run has finished."""

    planned: PlannedRun
    state: str
    message: str
    path: Path
    score: float | None
    normalised: float | None
    """(score - random) / (human - random); None also for a game without a tabulated human score."""
    env_steps: int
    hours: float


@dataclass(frozen=True)
class StudyResults:
    """A study with the results of all its runs."""

    folder: StudyFolder
    study: StudyFile
    runs: tuple[RunResult, ...]

    @classmethod
    def read(cls, path: Path) -> "StudyResults":
        """Read a study's folder; raise StudyError for one that is none, or whose file is broken."""
        if not (path / RECORD).is_file():
            raise StudyError(f"{path}: is no study's folder; it has no {RECORD}", path=path)
        folder = StudyFolder(path)
        study = StudyFile.read(str(path / FILE))
        planned = plan(study, study.size(folder.record["size"]), folder.path)
        return cls(folder, study, tuple(_result(folder, study, run) for run in planned))

    @property
    def arms(self) -> list[str]:
        """The arms, in the order of the file."""
        return list(dict.fromkeys(run.planned.arm for run in self.runs))

    @property
    def games(self) -> list[str]:
        """The games, in the order of the file."""
        return list(dict.fromkeys(run.planned.game for run in self.runs))

    @property
    def seeds(self) -> list[int]:
        """The seeds, in the order of the file."""
        return list(dict.fromkeys(run.planned.seed for run in self.runs))

    def scores(self, arm: str, game: str) -> NDArray[np.float64]:
        """Return the scores (S,) of an arm's finished runs of a game."""
        own = [run.score for run in self.runs if (run.planned.arm, run.planned.game) == (arm, game)]
        return np.array([score for score in own if score is not None])


def _result(folder: StudyFolder, study: StudyFile, planned: PlannedRun) -> RunResult:
    run, noted = folder.run(planned), folder.started(planned)
    status: dict[str, Any] = {"state": "failed" if noted.get("error") else WAITING}
    gone = "was started and has no folder: it is starting, or its folder was removed"
    status |= {"message": noted.get("error") or (gone if noted["starts"] else "")}
    if run is not None:
        try:
            status = read_status(run)
        except RunError as error:
            status = {"state": "failed", "message": str(error)}
    metrics, score = status.get("metrics", {}), None
    if status["state"] == "finished":
        score = metrics.get(EVALUATED) if study.primary_metric == EVALUATION else last_return(metrics)
    return RunResult(
        planned,
        str(status["state"]),
        str(status.get("message") or ""),
        folder.path / planned.name,
        score,
        None if score is None else human_normalised(score, planned.game),
        int(metrics.get("progress/env_steps", 0)),
        metrics.get("progress/seconds", 0.0) / 3600,
    )


COLUMNS = (
    "arm",
    "game",
    "seed",
    "state",
    "score",
    "human_normalised",
    "env_steps",
    "hours",
    "message",
    "run",
)


def write_csv(results: StudyResults, target: Path) -> None:
    """Write a row for each run; an unknown number is an empty cell."""
    write_rows(
        target,
        COLUMNS,
        (
            (r.planned.arm, r.planned.game, r.planned.seed, r.state, r.score, r.normalised, r.env_steps,
             round(r.hours, 4), r.message, r.path.name)
            for r in results.runs
        ),
    )  # fmt: skip


def write_rows(target: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV, with a header."""
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
