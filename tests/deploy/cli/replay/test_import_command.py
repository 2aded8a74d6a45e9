"""`apexpert replay --import`: in which order it finds out what is wrong, and what it leaves behind."""

import hashlib
import json
import shutil
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.cli.main import main
from deploy.cli.replay import transfer
from deploy.run.folder import RunFolder
from deploy.run.status import read_status
from deploy.storage.history import export_history
from learner.checkpoint import CheckpointStore
from replay.tools.archive import Archive, Archived
from tests.helpers.runs.catch_runs import catch_config


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A whole archive of one shard with nothing in it."""
    runs, folder = tmp_path / "others", tmp_path / "out"
    made = RunFolder.create(catch_config(runs, run__name="r", replay__shards=1))
    folder.mkdir()
    shutil.copy(made.config_path, folder)
    nothing = {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}
    names = ("shard-0.jsonl", "shard-0.segments")
    for name in names:
        (folder / name).touch()
    manifest = {"format": 1, "run": "r", "signatures": [None], "counts": asdict(Archived())}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": dict.fromkeys(names, nothing)}))
    return folder


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Archive]:
    """The archives that were hashed, as often as they were."""
    seen: list[Archive] = []
    check_files = Archive.check_files
    monkeypatch.setattr(Archive, "check_files", lambda archive: (seen.append(archive), check_files(archive)))
    return seen


def import_to(runs: Path, archive: Path) -> int:
    return main(["replay", "new", "--runs-dir", str(runs), "--import", str(archive)])


def test_a_folder_that_cannot_be_made_is_told_before_the_archive_is_hashed(
    archive: Path, hashed: list[Archive], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert import_to(tmp_path / "file", archive) == 2
    assert "Not a directory" in capsys.readouterr().err
    assert hashed == []


def test_an_archive_is_hashed_once(archive: Path, hashed: list[Archive], tmp_path: Path) -> None:
    assert import_to(tmp_path / "runs", archive) == 0
    assert len(hashed) == 1


def test_an_archive_that_is_not_whole_leaves_no_run(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (archive / "shard-0.segments").write_text("damaged")
    assert import_to(tmp_path / "runs", archive) == 2
    assert "is not as it was written" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["a b", "-x", "", "n" * 81, "a/b", ".hidden"])
def test_a_name_that_no_run_can_have_leaves_no_folder(
    name: str, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "new" / "runs"
    assert main(["replay", "--runs-dir", str(runs), "--import", str(archive), "--", name]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"apexpert: RUN {name!r}: no such run; the name of a new one must be letters")
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_servers_that_do_not_answer_leave_no_folder(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deploy.replays.source.RETRY_SECONDS", 0.1)
    monkeypatch.setenv("APEXPERT_REDIS_URLS", f"unix://{tmp_path}/none.sock")
    assert import_to(tmp_path / "runs", archive) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_an_import_that_is_cut_off_leaves_no_folder(
    error: BaseException, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(transfer, "import_run", cut)
    assert import_to(tmp_path / "runs", archive) in (1, 130)
    assert not (tmp_path / "runs").exists()


def test_an_archive_of_other_shards_starts_no_servers_in_a_run_that_is_there(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder.create(catch_config(tmp_path / "runs", run__name="new", replay__shards=2))
    assert import_to(tmp_path / "runs", archive) == 2
    assert "it is of 1 shards, here would be 2" in capsys.readouterr().err
    assert list(run.replay.iterdir()) == []


def test_nobody_resumes_a_run_before_its_import_is_whole(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    for name in ("_restore_checkpoint", "_keep_incarnations"):
        step = getattr(transfer, name)

        def watched(*given: Any, step: Any = step) -> Any:
            held.extend(folder.is_supervised() for folder in given if isinstance(folder, RunFolder))
            return step(*given)

        monkeypatch.setattr(transfer, name, watched)
    assert import_to(tmp_path / "runs", archive) == 0
    assert held == [True, True]


def test_a_run_with_servers_of_its_own_keeps_them(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RunFolder.create(catch_config(tmp_path / "runs", run__name="new", replay__shards=1))
    monkeypatch.setenv("APEXPERT_REDIS_URLS", "redis://127.0.0.1:1")
    assert import_to(tmp_path / "runs", archive) == 0


METRICS_LINE = '{"env_steps": 1000, "episode/return_mean_100": 0.5}\n'


def run_with_history(runs: Path, state: str, total: int = 1000, message: str = "") -> RunFolder:
    folder = RunFolder.create(catch_config(runs, run__name="old", replay__shards=1))
    told = {"state": state, "message": message, "time": 1.0, "pid": 1, "target_actors": 1, "actors": [{}]}
    metrics = {"progress/env_steps": 1000.0}
    folder.write_json("status.json", told | {"total_env_steps": total, "metrics": metrics})
    folder.metrics_path.write_text(METRICS_LINE)
    folder.episodes_path.write_text("{}\n")
    return folder


@pytest.mark.parametrize(
    ("state", "there", "said"),
    [
        ("finished", "finished", "it has finished (1,000 env steps); train it further: "),
        ("running", "stopped", "resume it: apexpert resume "),
    ],
)
def test_a_runs_history_travels_with_its_replay(
    state: str, there: str, said: str, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_history(run_with_history(tmp_path / "others", state), RunFolder(archive))
    assert import_to(tmp_path / "runs", archive) == 0
    assert said in capsys.readouterr().out
    new = RunFolder.open("new", tmp_path / "runs")
    assert new.metrics_path.read_text() == METRICS_LINE
    assert new.episodes_path.exists()
    status = read_status(new)
    assert (status["run"], status["state"], status["actors"]) == ("new", there, [])
    assert main(["list", "--runs-dir", str(tmp_path / "runs")]) == 0
    assert f"{there}  1,000 / " in capsys.readouterr().out


def test_the_export_of_a_replay_takes_the_runs_history_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, target = run_with_history(tmp_path / "others", "finished"), tmp_path / "there"
    target.mkdir()
    monkeypatch.setattr(transfer, "export_run", lambda *_, **__: Archived())
    source: Any = SimpleNamespace(
        shards=[], run="old", folder=run, config=run.load_config, checkpoint=lambda: None
    )
    assert transfer.export_replay(source, target, lambda _: nullcontext(lambda *_: None)) == 0
    kept = RunFolder(target)
    assert kept.metrics_path.read_text() == METRICS_LINE
    assert kept.episodes_path.exists()
    assert read_status(kept)["state"] == "finished"


@pytest.mark.parametrize(
    ("at_work", "said"), [(True, "exported while it was at work"), (False, "exported after it was lost")]
)
def test_the_export_of_a_run_says_whether_it_was_at_work(at_work: bool, said: str, tmp_path: Path) -> None:
    run, out = run_with_history(tmp_path, "running"), RunFolder(tmp_path / "out")
    out.path.mkdir()
    with run.lock() if at_work else nullcontext():
        export_history(run, out)
    assert out.read_json("status.json", {})["message"] == said


def test_an_import_leaves_the_history_of_a_run_that_has_one(archive: Path, tmp_path: Path) -> None:
    export_history(run_with_history(tmp_path / "others", "finished"), RunFolder(archive))
    own = run_with_history(tmp_path / "runs", "stopped")
    own.metrics_path.write_text("{}\n")
    assert main(["replay", "old", "--runs-dir", str(tmp_path / "runs"), "--import", str(archive)]) == 0
    assert own.metrics_path.read_text() == "{}\n"
    assert read_status(own)["state"] == "stopped"


@pytest.mark.parametrize("flag", ["--max-hours", "--until-return"])
def test_a_run_that_ended_early_says_at_what_and_which_flag_trains_it_further(
    flag: str, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    why = f"{flag} 0.5 is reached"
    export_history(run_with_history(tmp_path / "others", "finished", 5_000, why), RunFolder(archive))
    assert import_to(tmp_path / "runs", archive) == 0
    printed = capsys.readouterr().out
    assert f"it has finished (1,000 of 5,000 env steps: {why}); train it further: " in printed
    assert printed.endswith(f"{flag} N\n")


def test_an_archive_with_a_broken_checkpoint_keeps_incarnations_and_history(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_history(run_with_history(tmp_path / "others", "stopped"), RunFolder(archive))
    RunFolder(archive).write_json("fleet.json", {"target_actors": 3, "next_incarnation": {"0": 4}})
    path = CheckpointStore(archive / "checkpoints").save(7, {}, {"update": 7, "env_steps": 100})
    (path / "document.json").write_text("{")
    assert import_to(tmp_path / "runs", archive) == 1
    assert "the segments are imported, their priorities not" in capsys.readouterr().err
    new = RunFolder.open("new", tmp_path / "runs")
    assert new.read_json("fleet.json", {})["next_incarnation"] == {"0": 4}
    assert new.metrics_path.read_text() == METRICS_LINE
