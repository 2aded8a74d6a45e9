"""`apexpert replay --import`: in which order it finds out what is wrong, and what it leaves behind."""

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from deploy.cli.main import main
from deploy.cli.replay import transfer
from deploy.run.folder import RunFolder
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
    assert list((tmp_path / "runs").iterdir()) == []


def test_nobody_resumes_a_run_before_its_import_is_whole(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    for name in ("_restore_checkpoint", "_keep_incarnations"):
        step = getattr(transfer, name)

        def watched(archive: Archive, folder: RunFolder, *more: Any, step: Any = step) -> Any:
            held.append(folder.is_supervised())
            return step(archive, folder, *more)

        monkeypatch.setattr(transfer, name, watched)
    assert import_to(tmp_path / "runs", archive) == 0
    assert held == [True, True]


def test_a_run_with_servers_of_its_own_keeps_them(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RunFolder.create(catch_config(tmp_path / "runs", run__name="new", replay__shards=1))
    monkeypatch.setenv("APEXPERT_REDIS_URLS", "redis://127.0.0.1:1")
    assert import_to(tmp_path / "runs", archive) == 0
