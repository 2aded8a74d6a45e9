"""What is copied elsewhere, what stays there, and that a copy that fails holds nothing up."""

import importlib
import json
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from deploy.run.config import ConfigError
from deploy.run.errors import RunBusy
from deploy.storage.owner import claim_place
from deploy.storage.place import Place, StorageError
from deploy.storage.uploader import Uploader
from tests.deploy.storage.conftest import UploadedRun
from tests.helpers.deadline import until

Write = Callable[[Place, str, Iterable[bytes]], dict[str, Any]]


def uploader(run: UploadedRun) -> Uploader:
    return Uploader(run.folder, run.store, run.config, note=run.notes.append, retry_seconds=(0.01, 0.02))


def upload(run: UploadedRun, *updates: int) -> Uploader:
    """Save and copy each, one after the other."""
    claim_place(run.folder, run.config, new=True)
    copies = uploader(run)
    for update in updates:
        copies.submit(run.save(update))
        until(lambda number=update: copies.metrics()["checkpoint/uploads"] >= number, "copied", 30)
    assert copies.finish(30)
    return copies


def test_the_newest_stay_and_every_file_is_in_the_manifest(run: UploadedRun) -> None:
    run.folder.metrics_path.write_text('{"a": 1}\n{"half')
    upload(run, 1, 2, 3)
    assert run.manifests() == ["update-000000002.json", "update-000000003.json"]
    assert run.folders() == ["update-000000002", "update-000000003"]
    manifest = json.loads((run.place / "update-000000003.json").read_bytes())
    folder = run.place / manifest["folder"]
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        *manifest["files"]
    }
    assert {"config.json", "metadata.json", "metrics.jsonl", "checkpoint/tensors.safetensors"} <= {
        *manifest["files"]
    }
    # A line that is half written belongs to the next copy.
    assert (folder / "metrics.jsonl").read_text() == '{"a": 1}\n'


def test_the_best_stays_although_it_is_older(run: UploadedRun) -> None:
    claim_place(run.folder, run.config, new=True)
    first = run.save(1)
    run.store.mark_best(first, 5.0)
    copies = uploader(run)
    for update in (2, 3, 4):
        copies.submit(run.save(update))
        until(lambda number=update: copies.metrics()["checkpoint/uploads"] >= number, "copied", 30)
    assert copies.finish(30)
    assert [name[-6] for name in run.manifests()] == ["1", "3", "4"]


def test_only_the_newest_waits(run: UploadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    claim_place(run.folder, run.config, new=True)
    held, begun, write = threading.Event(), threading.Event(), Place.write

    def slowly(place: Place, name: str, chunks: Iterable[bytes]) -> dict[str, Any]:
        begun.set()
        assert held.wait(60)
        return write(place, name, chunks)

    monkeypatch.setattr(Place, "write", slowly)
    copies = uploader(run)
    copies.submit(run.save(1))
    assert begun.wait(60)
    for update in (2, 3):
        copies.submit(run.save(update))  # Returns at once, whatever the place is doing.
    held.set()
    assert copies.finish(60)
    assert [name[-6] for name in run.manifests()] == ["1", "3"]


def test_a_place_that_fails_is_tried_again_and_noted_once(
    run: UploadedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_place(run.folder, run.config, new=True)
    fails, write = [True], Place.write

    def sometimes(place: Place, name: str, chunks: Iterable[bytes]) -> dict[str, Any]:
        if fails[0] and name.endswith("tensors.safetensors"):
            raise StorageError(f"{place.url}: no route to host")
        return write(place, name, chunks)

    monkeypatch.setattr(Place, "write", sometimes)
    copies = uploader(run)
    copies.submit(run.save(1))
    until(lambda: copies.metrics()["checkpoint/upload_failures"] >= 3, "tried three times", 30)
    assert run.manifests() == []
    fails[0] = False
    assert copies.finish(30)
    assert run.manifests() == ["update-000000001.json"]
    # What the tries before have left is gone.
    assert run.folders() == ["update-000000001"]
    failed, again = run.notes
    assert "update-000000001 cannot be copied elsewhere" in failed
    assert "no route to host; it is tried again" in failed
    assert again == "checkpoints are copied elsewhere again: update-000000001"


def test_the_end_does_not_wait_for_ever(run: UploadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    claim_place(run.folder, run.config, new=True)

    def never(place: Place, name: str, chunks: Iterable[bytes]) -> dict[str, Any]:
        raise StorageError(f"{place.url}: gone")

    monkeypatch.setattr(Place, "write", never)
    copies = uploader(run)
    copies.submit(run.save(1))
    assert not copies.finish(0.2)
    assert "the last checkpoint is here, but not copied elsewhere" in run.notes[-1]


def test_a_checkpoint_that_is_there_is_not_copied_again(run: UploadedRun) -> None:
    upload(run, 1)
    again = uploader(run)
    again.submit(run.store.paths()[0])
    assert again.finish(30)
    assert again.metrics()["checkpoint/uploads"] == 0
    # Another checkpoint of the same update, as a resumed run may write, takes its place.
    run.store.save(1, {}, {"other": True})
    again.submit(run.store.paths()[0])
    assert again.finish(30)
    assert again.metrics()["checkpoint/uploads"] == 1
    assert run.folders() == ["update-000000001"]


def test_a_later_start_elsewhere_takes_the_place(run: UploadedRun, tmp_path: Path) -> None:
    copies = upload(run, 1)
    there = UploadedRun(tmp_path / "there")
    there.bucket, there.url = run.bucket, run.url
    assert claim_place(there.folder, run.config, new=False) == ""
    copies.submit(run.save(2))
    until(lambda: bool(run.notes), "it says so", 30)
    assert "checkpoints are copied elsewhere no more: the run goes on on" in run.notes[0]
    copies.submit(run.save(3))
    assert copies.finish(30)
    assert run.manifests() == ["update-000000001.json"]
    with pytest.raises(RunBusy, match=r"was resumed from file:.* resume that one: apexpert resume file:"):
        claim_place(run.folder, run.config, new=False)


def test_a_new_run_does_not_take_the_place_of_another_of_its_name(run: UploadedRun) -> None:
    upload(run, 1)
    with pytest.raises(ConfigError, match=r"--name r: .* holds checkpoints of a run of that name"):
        claim_place(run.folder, run.config, new=True)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("bucket/prefix", "must be a URL such as s3://BUCKET/FOLDER"),
        ("s3://", "must be a URL such as s3://BUCKET/FOLDER"),
        ("s3://key:secret@bucket/prefix", r"s3://key:\*\*\*@bucket/prefix/r: a URL must hold no password"),
        ("nosuch://bucket", "nosuch"),
        ("file:///proc/nothing", "file:///proc/nothing/r: "),
    ],
)
def test_a_place_that_cannot_be_used_is_one_line(tmp_path: Path, url: str, why: str) -> None:
    run = UploadedRun(tmp_path)
    config = run.config.__class__(run=run.config.run.__class__(name="r", checkpoints_to=url))
    with pytest.raises(ConfigError, match=f"^--checkpoints-to .*{why}") as error:
        claim_place(run.folder, config, new=True)
    assert "\n" not in str(error.value)


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    # An earlier test may have looked the class up, which fsspec remembers.
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "s3", raising=False)
    with pytest.raises(ConfigError, match=r"Install s3fs .*: pip install 'apexpert\[cluster\]'"):
        Place("s3://bucket/prefix")
