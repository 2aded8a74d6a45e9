"""A study's report: one HTML page that needs nothing else, and its tables as CSV and LaTeX."""

import base64
import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from apexpert.errors import ApexpertError
from deploy.reports.curves.arms import draw_arms
from deploy.reports.curves.run_curves import Against, CurveError, read_run
from deploy.reports.diagnostics_plot import draw_diagnostics, read_diagnoses
from deploy.run.config import hide_password
from deploy.study.report import figures, tables
from deploy.study.report.groups import Group, compare
from deploy.study.results import StudyResults, write_csv, write_rows

PAGE, RUNS, CURVES, LATEX = "report.html", "results.csv", "curves.csv", "tables.tex"
MOST_VIDEO_BYTES = 8 * 2**20
"""Of all videos together: a page of more is slow to open."""
MOST_DIAGNOSED = 6
"""Games of which the diagnostics are drawn, one run of each arm."""


def write_report(results: StudyResults, target: Path) -> Path:
    """Write the page, CSV and LaTeX into the folder `target`; return the page's path. Raises OSError."""
    compared = compare(results)
    by_game = tables.by_game(results)
    with tempfile.TemporaryDirectory() as scratch:
        page = _template().render(
            study=results.study,
            record=results.folder.record,
            text=hide_password(results.study.text.decode()),
            summary=_summary(results),
            settings=tables.settings(results),
            by_game=by_game,
            groups=[_shown(group, Path(scratch)) for group in compared.groups],
            notes=compared.notes,
            curves=list(_curves(results, Path(scratch))),
            diagnostics=list(_diagnostics(results, Path(scratch))),
            videos=list(_videos(results)),
            runs=tables.runs(results),
        )
    (target / PAGE).write_text(page, encoding="utf-8")
    write_csv(results, target / RUNS)
    write_rows(target / CURVES, ("arm", "game", "seed", "frames", "return"), _points(results))
    captions = [("Scores by game", by_game)]
    for group in compared.groups:
        captions += [("Aggregates", tables.aggregates(group.table))] if group.table else []
        captions += [("Comparisons", tables.comparisons(group))] if group.comparisons else []
    (target / LATEX).write_text(tables.latex(captions), encoding="utf-8")
    return target / PAGE


DAMAGED = (ApexpertError, OSError, ValueError, KeyError, TypeError, AttributeError)
"""What reading a run may raise whose files are damaged or from which some are gone: its curves are left out,
and the report of all others is written."""


def _template() -> jinja2.Template:
    text = resources.files("deploy.study.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    # What is put into the page is text: names and errors come from outside.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(text)


def _summary(results: StudyResults) -> str:
    counts = Counter(run.state for run in results.runs)
    hours = sum(run.hours for run in results.runs)
    words = [f"{count} {state}" for state, count in counts.items()]
    return f"{len(results.runs)} runs: {', '.join(words)}; {hours:.1f} hours in all."


def _shown(group: Group, scratch: Path) -> dict[str, Any]:
    table = group.table
    shown: dict[str, Any] = {"group": group, "comparisons": tables.comparisons(group)}
    if table is None:
        return shown
    return shown | {
        "aggregates": tables.aggregates(table),
        "aggregates_picture": _encoded(figures.draw_aggregates(table, scratch / "aggregates.png")),
        "profiles_picture": _encoded(figures.draw_profiles(table, scratch / "profiles.png")),
    }


def _curves(results: StudyResults, scratch: Path) -> Iterator[tuple[str, str]]:
    arms: dict[str, list[Path]] = {}
    for run in results.runs:
        if _can(read_run, run.path):
            arms.setdefault(run.planned.arm, []).append(run.path)
    if not arms:
        return
    axes: tuple[Against, ...] = ("frames", "hours")
    for against in axes:
        try:
            picture = draw_arms(arms, scratch / f"{against}.png", against=against)
            yield _encoded(picture), f"Return against {against}"
        except CurveError:
            # Runs that have only begun may have no kind of episodes in common.
            continue


def _can(read: Callable[[Path], object], path: Path) -> bool:
    """Whether a run's folder has what `read` returns."""
    with contextlib.suppress(*DAMAGED):
        read(path)
        return True
    return False


def _points(results: StudyResults) -> Iterator[tuple[Any, ...]]:
    """Yield every point of every run's first curve: that of its nearly greedy episodes, where it has one."""
    for run in results.runs:
        with contextlib.suppress(*DAMAGED):
            curve, planned = read_run(run.path).curves[0], run.planned
            for millions, value in zip(curve.frames, curve.returns, strict=True):
                yield planned.arm, planned.game, planned.seed, round(millions * 1e6), value


def _diagnostics(results: StudyResults, scratch: Path) -> Iterator[tuple[str, str]]:
    for game in results.games[:MOST_DIAGNOSED]:
        seed = results.seeds[0]
        own = [run.path for run in results.runs if (run.planned.game, run.planned.seed) == (game, seed)]
        if drawn := [path for path in own if _can(read_diagnoses, path)]:
            with contextlib.suppress(*DAMAGED):
                picture = draw_diagnostics(drawn, scratch / "diagnostics.png")
                yield _encoded(picture), f"{game}, seed {seed}: diagnostics over training"


def _videos(results: StudyResults) -> Iterator[tuple[str, str]]:
    room = MOST_VIDEO_BYTES
    for run in results.runs:
        for video in sorted((run.path / "videos").glob("*.mp4"))[-1:]:
            if (room := room - video.stat().st_size) < 0:
                return
            yield _encoded(video), f"{run.planned.name}: {video.stem}"


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
