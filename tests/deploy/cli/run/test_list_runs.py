"""The runs of a folder, as `apexpert list` shows them."""

import shutil
from pathlib import Path

import pytest

from deploy.run.config import with_values
from deploy.run.folder import RunFolder, list_runs
from deploy.run.presets import LAPTOP


def create(tmp_path: Path, name: str) -> RunFolder:
    return RunFolder.create(with_values(LAPTOP, run__runs_dir=str(tmp_path / "runs"), run__name=name))


def test_runs_are_listed_oldest_first_whatever_was_written_since(tmp_path: Path) -> None:
    for name, created in (
        ("new", "2026-01-02T00:30:00+0100"),
        ("old", "2026-01-01T23:00:00+0000"),
        ("a", "?"),
        ("b", None),
    ):
        folder = create(tmp_path, name)
        folder.write_json("metadata.json", {"created": created})
    old = RunFolder.open("old", tmp_path / "runs")
    old.save_config(old.load_config())
    assert [found.name for found in list_runs(tmp_path / "runs")] == ["a", "b", "old", "new"]


def test_a_run_that_is_removed_meanwhile_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(tmp_path, "mine")
    here = (tmp_path / "runs" / "mine" / "config.json", tmp_path / "runs" / "gone" / "config.json")
    monkeypatch.setattr(Path, "glob", lambda *_: iter(here))
    assert [found.name for found in list_runs(tmp_path / "runs")] == ["gone", "mine"]


def test_a_folder_that_cannot_be_a_run_does_not_hide_the_others(tmp_path: Path) -> None:
    folder = create(tmp_path, "mine")
    shutil.copytree(folder.path, folder.path.with_name("\udcff"))
    assert [found.name for found in list_runs(tmp_path / "runs")] == ["mine"]
