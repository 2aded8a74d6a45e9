"""What a study's report compares, says and hides, by results that the test makes up."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy.reports.statistics import human_normalised
from deploy.run.folder import RunFolder
from deploy.study.folder import StudyFolder
from deploy.study.plan import plan
from deploy.study.report import groups, tables
from deploy.study.report.groups import compare
from deploy.study.report.page import write_report
from deploy.study.results import RunResult, StudyResults
from tests.helpers.runs.studies import ARMS, SIZES, STUDY, read

Scores = Mapping[tuple[str, str, int], float]
MINATAR = SIZES.replace('"Pong", "Boxing"', '"minatar:breakout", "minatar:asterix"')


def results_of(tmp_path: Path, scores: Scores, text: str = STUDY + ARMS + SIZES) -> StudyResults:
    """Return a study's results: runs with a score have finished, the others wait."""
    study = read(tmp_path, text)
    folder = StudyFolder.create_or_open(study, study.size("full"), tmp_path)
    runs = []
    for planned in plan(study, study.size("full"), folder.path):
        score = scores.get((planned.arm, planned.game, planned.seed))
        state = "waiting" if score is None else "finished"
        normalised = None if score is None else human_normalised(score, planned.game)
        runs.append(RunResult(planned, state, "", folder.path / planned.name, score, normalised, 0, 0.0))
    return StudyResults(folder, study, tuple(runs))


def everywhere(*games: str) -> Scores:
    """Return scores of both arms, of which soft-2 is above dense in every game."""
    arms = {"dense": 0.0, "soft-2": 5.0}
    return {(arm, game, seed): high + seed for arm, high in arms.items() for game in games for seed in (1, 2)}


def test_games_without_a_human_score_are_compared_within_each_game(tmp_path):
    results = results_of(tmp_path, everywhere("minatar:breakout", "minatar:asterix"), STUDY + ARMS + MINATAR)
    (group,) = compare(results).groups
    assert group.table is None
    assert groups.NOT_NORMALISED in group.warnings
    assert any("dense has 2 seeds" in warning for warning in group.warnings)
    shown = tables.comparisons(group)
    assert shown.head == ("arm", "P(above dense)", "games with a higher mean")
    assert shown.rows == (("soft-2", "1.000", "2 of 2"),)
    page = write_report(results, tmp_path).read_text()
    assert "These games have no human score" in page
    assert "6.50" in page, "scores by game are raw"
    assert "Wilcoxon" not in (tmp_path / "tables.tex").read_text()


def test_games_with_and_without_a_human_score_are_not_mixed(tmp_path):
    sizes = SIZES.replace('"Boxing"', '"minatar:breakout"')
    found = compare(results_of(tmp_path, everywhere("Pong", "minatar:breakout"), STUDY + ARMS + sizes))
    assert [(group.games, group.table is None) for group in found.groups] == [
        (("Pong",), False),
        (("minatar:breakout",), True),
    ]
    assert len(tables.comparisons(found.groups[0]).head) == 4


def test_the_first_arm_of_the_file_is_the_baseline_whichever_run_ends_first(tmp_path):
    scores = dict(everywhere("Pong"))
    del scores["dense", "Pong", 1]
    (group,) = compare(results_of(tmp_path, scores)).groups
    assert group.baseline == "dense"
    assert list(group.comparisons) == ["soft-2"]


def test_what_is_left_out_is_said(tmp_path):
    scores = dict(everywhere("Pong", "Boxing"))
    found = compare(results_of(tmp_path, scores))
    assert found.notes == ()
    fewer = {key: score for key, score in scores.items() if key[:2] != ("soft-2", "Boxing")}
    found = compare(results_of(tmp_path, fewer))
    assert [group.games for group in found.groups] == [("Pong",)]
    assert found.notes == ("Left out, as not every arm has a finished run there: Boxing.",)
    dense = {key: score for key, score in scores.items() if key[0] == "dense"}
    results = results_of(tmp_path, dense)
    assert compare(results).notes == ("soft-2 has no finished run with a score, and is left out.",)
    assert "soft-2 has no finished run" in write_report(results, tmp_path).read_text()
    apart = {("dense", "Pong", 1): 0.0, ("soft-2", "Boxing", 1): 0.0}
    assert compare(results_of(tmp_path, apart)).notes == (groups.NO_COMMON_GAME,)


def test_passwords_of_servers_are_not_in_the_page(tmp_path):
    urls = '[base.replay]\nurls = ["redis://me:secret@host:1"]\n'
    results = results_of(tmp_path, {}, STUDY + ARMS + SIZES + urls)
    page = write_report(results, tmp_path).read_text()
    assert page.count("redis://me:***@host:1") == 1 + 8, "in the file, and in every command"
    assert "secret" not in page


@pytest.mark.parametrize("name", ["status.json", "config.json", "metrics.jsonl", "episodes.jsonl"])
@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"a', b"\xff\n"])
def test_a_run_with_a_damaged_file_does_not_cost_the_others_their_report(tmp_path, name, content):
    results = results_of(tmp_path, {})
    run = RunFolder.create(results.runs[0].planned.config)
    metrics = {"actors/env_steps": 1.0, "episode/return_mean_100": 1.0}
    status = {"run": run.name, "state": "finished", "metrics": metrics, "message": "", "time": 0.0}
    run.write_json("status.json", run.marked(status | {"total_env_steps": 1}))
    (run.path / name).write_bytes(content)
    again = StudyResults.read(results.folder.path)
    assert len(again.runs) == 8
    assert again.runs[0].state == ("failed" if name == "status.json" else "finished")
    assert "Every run" in write_report(again, tmp_path).read_text()


def test_a_run_whose_folder_is_gone_is_said_to_have_been_started(tmp_path):
    results = results_of(tmp_path, {})
    results.folder.note(results.runs[0].planned, starts=1)
    again = StudyResults.read(results.folder.path).runs
    assert again[0].message.startswith("was started and has no folder")
    assert again[1].message == ""


@pytest.mark.parametrize("name", ["report.html", "results.csv", "curves.csv", "tables.tex"])
def test_a_study_of_which_nothing_has_started_has_a_whole_report(tmp_path, name):
    results = results_of(tmp_path, {})
    write_report(results, tmp_path)
    assert (tmp_path / name).stat().st_size > 0
    assert compare(results).notes == (groups.NOTHING,)
