"""A study from its file to its page, with real runs; and a report of one that has only begun."""

import csv
import errno
from pathlib import Path

import pytest

from deploy.cli.main import main
from deploy.study.folder import StudyFolder
from tests.helpers.runs.studies import ARMS, SIZES, STUDY, read


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_smoke_study_from_its_file_to_its_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    read(tmp_path, STUDY + ARMS + SIZES)
    assert main(["study", "trial.toml", "--smoke"]) == 0
    shown = capsys.readouterr().out
    assert "2 of 2 finished" in shown
    assert main(["report", "trial-smoke"]) == 0
    folder = Path("runs") / "trial-smoke"
    page = (folder / "report.html").read_text()
    assert "Which of two?" in page
    assert "The first." in page
    assert page.count("data:image/png;base64,") >= 4, "aggregates, profiles, curves and diagnostics"
    assert 'src="http' not in page, "it needs nothing else"
    for row in rows_of(folder / "results.csv"):
        assert row["state"] == "finished"
        assert -21.0 <= float(row["score"]) <= 0.0
        assert float(row["human_normalised"]) == pytest.approx((float(row["score"]) + 20.7) / 35.3)
    assert {row["arm"] for row in rows_of(folder / "curves.csv")} == {"dense", "soft-2"}
    assert r"\begin{tabular}" in (folder / "tables.tex").read_text()
    # Once more: all has finished, and nothing starts.
    assert main(["study", "trial.toml", "--smoke"]) == 0
    assert StudyFolder(folder).record["runs"]["dense-Pong-1"]["starts"] == 1


def test_a_study_that_has_only_begun_has_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study = read(tmp_path, STUDY.replace("Which", "Which of <b>") + ARMS + SIZES)
    StudyFolder.create_or_open(study, study.size("full"), Path("runs"))
    assert main(["report", "trial", "--output", "there"]) == 0
    page = Path("there/report.html").read_text()
    assert "No run has finished yet" in page
    assert "&lt;b&gt;" in page, "what the file says is text"
    assert len(rows_of(Path("there/results.csv"))) == 8


def test_a_folder_that_is_no_study_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "trial"]) == 1
    assert capsys.readouterr().err == "apexpert: trial: is no study's folder; it has no study.json\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nothing.toml"], "nothing.toml: no such file and no study of that name"),
        (["trial.toml", "--at-once", "-1"], "--at-once -1: must be 1 or more"),
        (["trial.toml", "--smoke", "--size", "lite"], "--smoke: is a size"),
        (["trial.toml", "--size", "huge"], "--size huge: trial.toml has full, lite, smoke"),
    ],
)
def test_a_wrong_flag_is_one_line_and_starts_nothing(tmp_path, monkeypatch, capsys, words, complaint):
    monkeypatch.chdir(tmp_path)
    read(tmp_path, STUDY + ARMS + SIZES)
    assert main(["study", *words]) != 0
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


def test_a_game_that_is_none_is_refused_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    read(tmp_path, STUDY + ARMS + SIZES.replace('"Boxing"', '"Boxxing"'))
    assert main(["study", "trial.toml"]) == 2
    assert "Boxxing" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_full_disk_ends_the_driver_in_one_line_that_says_what_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    read(tmp_path, STUDY + ARMS + SIZES)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/trial/study.json")

    monkeypatch.setattr(StudyFolder, "note", full)
    assert main(["study", "trial.toml", "--runs-dir", "my runs"]) == 1
    error = capsys.readouterr().err
    assert "No space left on device; runs at work go on" in error
    assert error.endswith("apexpert study trial.toml --size full --runs-dir 'my runs'\n")
    (tmp_path / "trial.toml").write_text(STUDY + ARMS + SIZES + "\n")
    assert main(["study", "trial.toml", "--runs-dir", "my runs"]) == 1
    again = "apexpert study 'my runs/trial/study.toml' --size full --runs-dir 'my runs'"
    assert again in capsys.readouterr().err


def test_a_dry_run_starts_nothing_and_measures_each_arm_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    read(tmp_path, STUDY + ARMS + SIZES)
    monkeypatch.setattr("deploy.study.capacity.env_steps_per_s", lambda _: 100.0)
    assert main(["study", "trial.toml", "--dry-run", "--at-once", "2"]) == 0
    shown = capsys.readouterr()
    assert shown.err.splitlines() == ["measuring dense (arm 1 of 2)", "measuring soft-2 (arm 2 of 2)"]
    assert "at least 0.3 hours here (0.7 one after another)" in shown.out
    assert not Path("runs").exists()


def test_without_a_file_the_studies_that_come_along_are_listed(capsys):
    assert main(["study"]) == 0
    assert "paper-scaling" in capsys.readouterr().out
