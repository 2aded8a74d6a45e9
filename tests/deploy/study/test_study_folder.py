"""The folder of a study, and how many of its runs fit at once."""

from dataclasses import replace
from pathlib import Path

import pytest

from deploy.run.config import with_values
from deploy.study.errors import StudyError
from deploy.study.file import StudyFile
from deploy.study.folder import StudyFolder
from deploy.study.plan import PlannedRun, plan
from tests.helpers.runs.studies import ARMS, SIZES, STUDY, read


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFile:
    monkeypatch.chdir(tmp_path)
    return read(tmp_path, STUDY + ARMS + SIZES)


def made(study: StudyFile) -> StudyFolder:
    return StudyFolder.create_or_open(study, study.size("full"), Path("runs"))


def test_a_changed_file_does_not_continue_a_study(study, tmp_path):
    made(study)
    assert (Path("runs") / "trial" / "study.toml").read_bytes() == study.text
    changed = read(tmp_path, STUDY.replace("None.", "When I like it.") + ARMS + SIZES)
    with pytest.raises(StudyError, match="is not the study that runs/trial was started with"):
        made(changed)


def test_a_start_that_is_killed_half_way_can_be_repeated(study, monkeypatch):
    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("deploy.study.folder.shutil.rmtree", lambda *_, **__: None)  # As by SIGKILL.
        patch.setattr(Path, "rename", killed)
        with pytest.raises(SystemExit):
            made(study)
    assert not (Path("runs") / "trial").exists()
    assert made(study).record


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"sha256": "", "size": "full", "runs": {"a": 1}}', "\xff"]
)
def test_a_broken_record_is_named(study, content):
    folder = made(study)
    (folder.path / "study.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(StudyError, match=r"study\.json: cannot be read, or is no record of a study"):
        made(study)


def test_what_another_driver_has_noted_is_kept(study):
    mine, other = made(study), made(study)
    first, second, *_ = plan(study, study.size("full"), mine.path)
    with other.driving():
        other.note(first, starts=3)
    with mine.driving():
        mine.note(second, starts=1)
    assert StudyFolder(mine.path).started(first) == {"starts": 3}


def test_a_folder_that_is_no_study_is_left_alone(study):
    (Path("runs") / "trial").mkdir(parents=True)
    with pytest.raises(StudyError, match="runs/trial: is there already, and is no study"):
        made(study)


def test_two_drivers_of_one_study_are_refused(study):
    folder = made(study)
    with (
        folder.driving(),
        pytest.raises(StudyError, match="another apexpert study is at work on it"),
        made(study).driving(),
    ):
        pass
    with folder.driving():
        pass


def test_the_folder_of_a_size_has_its_name(study):
    small = StudyFolder.create_or_open(study, study.size("lite"), Path("runs"))
    assert small.path.name == "trial-lite"
    assert small.record["size"] == "lite"
    assert small.record["sha256"]


def test_as_many_fit_as_have_cores(study, monkeypatch):
    from deploy.study import capacity

    runs = plan(study, study.size("full"), Path("runs"))
    monkeypatch.setattr(capacity, "gpus", list)
    for cores, fit in ((1, 1), (2, 1), (4, 2), (9, 4)):
        monkeypatch.setattr(capacity.os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert capacity.at_once(runs, "") == fit
    four = [PlannedRun(r.arm, r.game, r.seed, with_values(r.config, actors__num_actors=4)) for r in runs]
    assert capacity.at_once(runs[:1] + four, "") == 1
    monkeypatch.setattr(capacity, "gpus", lambda: ["one"])
    assert capacity.at_once(runs, "") == 1


@pytest.mark.parametrize(("asked", "actors"), [("auto", 4), ("auto:2-6", "auto:2-6"), (7, 7)])
def test_a_run_of_a_study_does_not_take_all_cores(study, asked, actors):
    study = replace(study, base={"run": {"total_env_steps": 50_000}, "actors": {"num_actors": asked}})
    runs = plan(study, study.size("full"), Path("runs"))
    assert {run.config.actors.num_actors for run in runs} == {actors}
    assert all(run.words[run.words.index("--actors.num-actors") + 1] == str(actors) for run in runs)
