"""What of a study is compared: arms of one protocol, over the games that all of them have played."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.study.errors import ScoresError
from deploy.study.file import EVALUATION
from deploy.study.results import RunResult, StudyResults
from deploy.study.statistics.aggregates import Scores
from deploy.study.statistics.comparison import (
    AggregateTable,
    Comparison,
    about_runs,
    aggregate_table,
    compared,
)
from deploy.study.statistics.protocol import Games, Row, by_protocol, protocol_of, score_matrices

NOT_NORMALISED = (
    "These games have no human score, and scores of different games are on different scales. So nothing is"
    " averaged over games, and no test weighs their differences; what is compared within each game needs no"
    " common scale."
)
NOTHING = "No run has finished yet with a score to compare."
NO_COMMON_GAME = "Nothing is compared: there is no game in which every arm has a finished run."


@dataclass(frozen=True)
class Group:
    """Arms that are compared; `baseline` is the first of them in the study's file."""

    protocol: str
    games: tuple[str, ...]
    baseline: str
    comparisons: Mapping[str, Comparison]
    warnings: tuple[str, ...]
    table: AggregateTable | None
    """None for games without a human score."""


@dataclass(frozen=True)
class Compared:
    """All groups, and a sentence for each thing that could not be compared."""

    groups: tuple[Group, ...]
    notes: tuple[str, ...]


def compare(results: StudyResults) -> Compared:
    """Return what can be compared of a study: human-normalised scores, and raw ones of other games."""
    scored = [run for run in results.runs if run.score is not None]
    if not scored:
        return Compared((), (NOTHING,))
    groups: list[Group] = []
    notes = [
        f"{arm} has no finished run with a score, and is left out."
        for arm in results.arms
        if all(run.planned.arm != arm for run in scored)
    ]
    for normalised in (True, False):
        own = [run for run in scored if (run.normalised is not None) == normalised]
        for protocol, rows in by_protocol(_rows(results, own)).items():
            try:
                found = _group(results, str(protocol), rows, normalised=normalised)
            except ScoresError as error:
                notes.append(f"Nothing is compared under the protocol {protocol}: {error}.")
                continue
            notes += _left_out(rows, found)
            groups += [] if found is None else [found]
    return Compared(tuple(groups), tuple(notes))


def _rows(results: StudyResults, runs: Sequence[RunResult]) -> list[Row]:
    games: Games = "evaluation" if results.study.primary_metric == EVALUATION else "training"
    return [
        Row(
            run.planned.arm,
            run.planned.game,
            run.planned.seed,
            run.score if run.normalised is None else run.normalised,
            protocol_of(run.planned.config, games=games, checkpoint="final"),
            run.planned.name,
        )
        for run in runs
        if run.score is not None
    ]


def _group(results: StudyResults, protocol: str, rows: list[Row], *, normalised: bool) -> Group | None:
    """Return the arms of these rows over their common games; None where they have none."""
    common = set.intersection(*({row.game for row in rows if row.arm == arm} for arm in _arms(rows)))
    if not common:
        return None
    games, found = score_matrices([row for row in rows if row.game in common])
    # In the order of the file: whichever run is the first to finish is no baseline.
    arms: dict[str, Scores] = {arm: found[arm] for arm in results.arms if arm in found}
    baseline = next(iter(arms))
    if normalised:
        table = aggregate_table(arms, games, baseline=baseline)
        return Group(protocol, games, baseline, table.comparisons, table.warnings, table)
    warnings = (NOT_NORMALISED, *about_runs(arms, games))
    return Group(protocol, games, baseline, compared(arms, baseline), warnings, None)


def _left_out(rows: Sequence[Row], group: Group | None) -> list[str]:
    if group is None:
        return [NO_COMMON_GAME]
    games = sorted({row.game for row in rows} - set(group.games))
    return [f"Left out, as not every arm has a finished run there: {', '.join(games)}."] if games else []


def _arms(rows: Sequence[Row]) -> set[str]:
    return {row.arm for row in rows}
