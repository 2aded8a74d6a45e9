"""A save that dies or fails at any place leaves whole checkpoints, and nothing else."""

import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from apexpert import durable
from learner import checkpoint as module
from learner import checkpoint_files as files
from learner.checkpoint import CheckpointStore
from tests.helpers.learner.checkpoints import save, tensors


class Crash(BaseException):
    """Stands for the process dying: nothing after it runs."""


def crash_at(monkeypatch: pytest.MonkeyPatch, place: int) -> list[str]:
    """Lets the save die at its `place`-th change of the file system; returns the list of changes made."""
    done: list[str] = []

    def counted(name, function):
        def wrapper(*args, **kwargs):
            if len(done) == place:
                raise Crash(name)
            done.append(name)
            return function(*args, **kwargs)

        return wrapper

    for owner, name in [
        (files, "save_file"),
        (durable, "write"),
        (os, "fsync"),
        (module.Path, "rename"),
        (module.shutil, "rmtree"),
    ]:
        monkeypatch.setattr(owner, name, counted(name, getattr(owner, name)))
    return done


def test_a_crash_at_any_place_of_a_save_leaves_a_whole_checkpoint(tmp_path):
    """For a new update and for one that replaces an older save of the same update."""
    for again in (False, True):
        for place in range(100):
            folder = tmp_path / f"{again}-{place}"
            store = CheckpointStore(folder)
            save(store, 1)
            with pytest.MonkeyPatch.context() as patch:
                done = crash_at(patch, place)
                try:
                    store.save(1 if again else 2, tensors(9.0), {"new": True})
                    finished = True
                except Crash:
                    finished = False
            recovered = CheckpointStore(folder)
            recovered.remove_leftovers()
            loaded = recovered.load_newest()
            old = loaded.document == {"update": 1, "rng": 2**127 + 1, "price": 0.1}
            assert old or loaded.document == {"new": True}
            assert not finished or loaded.document == {"new": True}
            assert not list(folder.glob(".tmp-*"))
            if finished:
                assert done.count("fsync") >= 4
                break
        else:
            pytest.fail("the save never ran to its end")


def test_everything_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def record_fsync(descriptor):
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def record_rename(self, target):
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", record_rename)
    save(CheckpointStore(tmp_path), 3)
    at = events.index("rename")
    assert {"tensors.safetensors", "document.json", "manifest.json"} <= set(events[:at])
    assert any(name.startswith(".tmp-") for name in events[:at])
    assert events[at + 1 :] == [tmp_path.name]


def test_leftovers_of_a_killed_save_are_removed_and_never_loaded(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 1)
    left = tmp_path / ".tmp-update-000000002.99"
    left.mkdir()
    (left / "tensors.safetensors").write_bytes(b"half")
    (tmp_path / ".tmp-best.json.99").write_text("{")
    assert store.load_newest().update == 1
    store.remove_leftovers()
    assert {path.name for path in tmp_path.iterdir()} == {"update-000000001", ".best.lock"}


def test_a_document_that_is_not_json_leaves_nothing(tmp_path):
    store = CheckpointStore(tmp_path)
    for bad in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises((ValueError, TypeError)):
            store.save(1, tensors(1.0), bad)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_of_the_system_whatever_library_meets_it(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    store = CheckpointStore(tmp_path)
    kept = save(store, 1)
    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match="No space left on device") as refused:
        save(store, 2)
    assert refused.value.errno == errno.ENOSPC
    assert "update-000000002" in refused.value.filename, "for the one line of a command"
    assert list(tmp_path.iterdir()) == [kept]
