"""Tables of a study's report, as rows of text, and as LaTeX."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.reports.statistics import Estimate
from deploy.run.config import flag_of, hide_password, leaves, with_values
from deploy.study.plan import words_of
from deploy.study.report.groups import Group
from deploy.study.results import StudyResults
from deploy.study.statistics.comparison import AggregateTable

ANYWHERE: Mapping[str, Any] = {"run__runs_dir": "runs", "run__detach": False, "run__ray_address": ""}
NOT_OF_AN_ARM = ("run.name", "run.seed", "environment.game", "environment.env")


@dataclass(frozen=True)
class TextTable:
    """A table with a head; `note` says what its numbers are."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def settings(results: StudyResults) -> TextTable:
    """Return the settings in which the arms differ, by their flags."""
    firsts = [next(run for run in results.runs if run.planned.arm == arm) for arm in results.arms]
    columns = [leaves(run.planned.config) for run in firsts]
    differing = [
        path
        for path in columns[0]
        if path not in NOT_OF_AN_ARM and len({str(column[path]) for column in columns}) > 1
    ]
    rows = ((flag_of(path), *(hide_password(str(column[path])) for column in columns)) for path in differing)
    return TextTable(("setting", *results.arms), tuple(rows))


def by_game(results: StudyResults) -> TextTable:
    """Return each arm's score in each game: mean, standard deviation over seeds, and number of seeds."""
    rows = []
    for game in results.games:
        cells = [_cell(results.scores(arm, game)) for arm in results.arms]
        rows.append((game, *cells))
    note = f"{results.study.primary_metric}: mean ± standard deviation over seeds (number of seeds)"
    return TextTable(("game", *results.arms), tuple(rows), note)


def _cell(scores: np.ndarray) -> str:
    if not scores.size:
        return "-"
    if scores.size == 1:
        return f"{scores[0]:,.2f} (1)"
    return f"{scores.mean():,.2f} ± {scores.std(ddof=1):,.2f} ({scores.size})"


def aggregates(table: AggregateTable) -> TextTable:
    """Return each arm's aggregates with their intervals."""
    head = ("arm", "runs of a game", "interquartile mean", "median", "mean", "optimality gap")
    rows = []
    for arm, found in table.arms.items():
        fewest, most = found.runs
        runs = str(fewest) if fewest == most else f"{fewest} to {most}"
        numbers = (found.interquartile_mean, found.median, found.mean, found.optimality_gap)
        rows.append((arm, runs, *map(with_interval, numbers)))
    return TextTable(head, tuple(rows), "human-normalised; 95 % stratified bootstrap intervals over seeds")


def comparisons(group: Group) -> TextTable:
    """Return each arm beside the baseline; without a test over games where they have no common scale."""
    head = ("arm", f"P(above {group.baseline})", "games with a higher mean", "p over games (Wilcoxon)")
    rows = []
    for arm, found in group.comparisons.items():
        test = found.over_games
        p_value = f"{test.p_value:.3g} (smallest possible {test.smallest_p_value:.3g})"
        games = f"{test.higher} of {len(group.games)}"
        rows.append((arm, with_interval(found.probability_of_improvement), games, p_value))
    shown = len(head) if group.table else len(head) - 1
    note = "probability that a run of the arm is above one of the baseline in the same game"
    return TextTable(head[:shown], tuple(row[:shown] for row in rows), note)


def with_interval(estimate: Estimate | None) -> str:
    """Return `0.52 (0.40 to 0.61)`, without the interval where there is none, `-` for None."""
    if estimate is None:
        return "-"
    shown = f"{estimate.value:.3f}"
    return shown + ("" if estimate.bounds is None else " ({:.3f} to {:.3f})".format(*estimate.bounds))


def runs(results: StudyResults) -> TextTable:
    """Return every run that the study asks for, failed ones too, with the command that made it."""
    rows = []
    for run in results.runs:
        score = "-" if run.score is None else f"{run.score:,.2f}"
        anywhere = with_values(run.planned.config, **ANYWHERE)
        command = hide_password("apexpert train " + shlex.join(words_of(anywhere)))
        cells = (run.planned.name, run.state, f"{run.env_steps:,}", f"{run.hours:.2f}", score)
        rows.append((*cells, run.message, command))
    return TextTable(("run", "state", "env steps", "hours", "score", "", "command"), tuple(rows))


def latex(tables: Sequence[tuple[str, TextTable]]) -> str:
    """Return tables with captions as LaTeX, for the package booktabs."""
    return "\n".join(_latex(caption, table) for caption, table in tables)


def _latex(caption: str, table: TextTable) -> str:
    def row(cells: Sequence[str]) -> str:
        return " & ".join(map(_escaped, cells)) + r" \\"

    return "\n".join(
        (
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}",
            r"\toprule",
            row(table.head),
            r"\midrule",
            *map(row, table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        )
    )


SPECIAL = {character: "\\" + character for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(character, character) for character in text)
