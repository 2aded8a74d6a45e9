"""Checkpoints are whole or skipped: damage of any kind, crashes at every place of a save, what is kept."""

import errno
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from learner import checkpoint as module
from learner.checkpoint import CheckpointStore
from learner.errors import CheckpointError


def tensors(value: float) -> dict:
    return {
        "online/weight": torch.full((3, 4), value),
        "optimizer/step": torch.tensor(value),
        "sampler/masses": np.arange(5, dtype=np.float64) + value,
        "sampler/leaf": np.arange(4, dtype=np.int64),
        "sampler/empty": np.zeros((0, 3), np.int64),
    }


def save(store: CheckpointStore, update: int) -> Path:
    return store.save(update, tensors(update), {"update": update, "rng": 2**127 + 1, "price": 0.1})


def test_round_trip_keeps_values_dtypes_and_big_integers(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    path = save(store, 12345)
    assert path.name == "update-000012345"
    loaded = CheckpointStore(tmp_path / "checkpoints").load_newest()
    assert (loaded.path, loaded.update) == (path, 12345)
    assert loaded.document == {"update": 12345, "rng": 2**127 + 1, "price": 0.1}
    for name, value in tensors(12345).items():
        expected = torch.as_tensor(value)
        assert loaded.tensors[name].dtype == expected.dtype
        assert torch.equal(loaded.tensors[name], expected)


def test_channels_last_and_shared_tensors_are_saved(tmp_path):
    weight = torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    CheckpointStore(tmp_path).save(1, {"weight": weight.requires_grad_()}, {})
    assert torch.equal(CheckpointStore(tmp_path).load_newest().tensors["weight"], weight)


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path):
    assert CheckpointStore(tmp_path).load_newest() is None
    assert CheckpointStore(tmp_path / "absent").load_newest() is None


def damages(path: Path):
    """Yields (what, undo-less damage) for every file of a checkpoint, at many places of it."""
    for file in ("tensors.safetensors", "document.json", "manifest.json"):
        size = (path / file).stat().st_size
        places = range(size) if file == "manifest.json" else {0, 7, 8, size // 2, size - 1}
        for place in places:
            yield file, "flip", place
        yield file, "truncate", size // 2
        yield file, "truncate", 0
        yield file, "append", 1
        yield file, "remove", 0


def damage(path: Path, kind: str, place: int, mask: int) -> None:
    data = bytearray(path.read_bytes())
    if kind == "flip":
        data[place] ^= mask
        path.write_bytes(data)
    elif kind == "truncate":
        path.write_bytes(data[:place])
    elif kind == "append":
        path.write_bytes(data + b" ")
    else:
        path.unlink()


@pytest.mark.parametrize("mask", [0x01, 0x20, 0xFF])
def test_any_damage_to_the_newest_is_found_and_the_one_before_is_used(tmp_path, caplog, mask):
    store = CheckpointStore(tmp_path)
    save(store, 1)
    newest = save(store, 2)
    whole = {file.name: file.read_bytes() for file in newest.iterdir()}
    assert sorted(whole) == ["document.json", "manifest.json", "tensors.safetensors"]
    for file, kind, place in list(damages(newest)):
        caplog.clear()
        damage(newest / file, kind, place, mask)
        with caplog.at_level(logging.WARNING):
            loaded = CheckpointStore(tmp_path).load_newest()
        assert loaded.update == 1, (file, kind, place)
        [line] = [record.getMessage() for record in caplog.records]
        assert "update-000000002" in line
        if kind == "remove":
            assert f"{file} is missing" in line
        elif file != "manifest.json":
            assert f"{file} is not as it was written" in line
        (newest / file).write_bytes(whole[file])
    assert CheckpointStore(tmp_path).load_newest().update == 2


def test_a_checkpoint_under_another_number_is_refused(tmp_path):
    store = CheckpointStore(tmp_path)
    path = save(store, 1).rename(tmp_path / "update-000000009")
    with pytest.raises(CheckpointError, match="does not belong to this folder"):
        store.load(path)


def test_the_last_kept_and_the_best_stay(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    first = save(store, 1)
    assert store.mark_best(first, 5.0)
    for update in range(2, 6):
        save(store, update)
    assert [path.name[-1] for path in store.paths()] == ["5", "4", "1"]
    assert not store.mark_best(store.paths()[1], 4.0)
    assert not store.mark_best(store.paths()[1], float("nan"))
    assert not store.mark_best(tmp_path / "update-000000002", 9.0)
    assert store.mark_best(store.paths()[1], 6.0)
    assert CheckpointStore(tmp_path).best() == (tmp_path / "update-000000004", 6.0)
    save(store, 6)
    assert [path.name[-1] for path in store.paths()] == ["6", "5", "4"]


def test_one_that_somebody_evaluates_is_not_removed_meanwhile(tmp_path):
    learners, evaluators = CheckpointStore(tmp_path, keep=1), CheckpointStore(tmp_path, keep=1)
    first = save(learners, 1)
    with evaluators.pinned(first):
        save(learners, 2)
        save(learners, 3)
        assert [path.name[-1] for path in learners.paths()] == ["3", "1"]
        assert evaluators.mark_best(first, 5.0)
    third = learners.paths()[0]
    with evaluators.pinned(third):
        save(learners, 4)
        assert not evaluators.mark_best(third, 4.0)
    save(learners, 5)
    assert [path.name[-1] for path in learners.paths()] == ["5", "1"], "the pinned that was not best leaves"


def test_a_good_one_that_is_gone_is_told_of(tmp_path):
    notes = []
    store = CheckpointStore(tmp_path, note=notes.append)
    gone = tmp_path / "update-000000001"
    with store.pinned(gone):
        assert not store.mark_best(gone, 9.0)
    assert notes == ["update-000000001 scored 9, but it is gone and cannot be kept as the best"]
    (save(store, 2) / "document.json").unlink()
    assert store.load_newest() is None
    assert notes[1:] == ["skipping broken checkpoint update-000000002: document.json is missing"]


def test_damage_to_the_mark_of_the_best_loses_only_the_mark(tmp_path, caplog):
    store = CheckpointStore(tmp_path)
    store.mark_best(save(store, 1), 5.0)
    (tmp_path / "best.json").write_text("{")
    assert store.best() is None
    assert "best.json" in caplog.text
    assert store.load_newest().update == 1


def test_a_broken_checkpoint_does_not_count_among_those_kept(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for update in (10, 20, 30):
        save(store, update)
    (tmp_path / "update-000000030" / "document.json").write_bytes(b"{}")
    store = CheckpointStore(tmp_path, keep=2)
    assert store.load_newest().update == 20
    save(store, 25)
    assert [path.name[-2:] for path in store.paths()] == ["30", "25", "20"]
    save(store, 30)
    assert store.load_newest().update == 30
    assert [path.name[-2:] for path in store.paths()] == ["30", "25"]


def test_the_same_update_may_be_saved_again(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 0)
    store.save(0, tensors(7.0), {"second": True})
    assert [path.name for path in tmp_path.iterdir()] == ["update-000000000"]
    assert store.load_newest().document == {"second": True}


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
        (module, "save_file"),
        (module, "_write_synced"),
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
    assert [path.name for path in tmp_path.iterdir()] == ["update-000000001"]


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
    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="No space left on device") as refused:
        save(store, 2)
    assert refused.value.errno == errno.ENOSPC
    assert "update-000000002" in refused.value.filename, "for the one line of a command"
    assert list(tmp_path.iterdir()) == [kept]


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path):
    path = save(CheckpointStore(tmp_path), 1)
    header = (path / "tensors.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    assert "online/weight" in json.loads(header[8 : 8 + size])
    json.loads((path / "document.json").read_bytes())


def test_the_document_is_for_its_owner_only(tmp_path):
    """The configuration in it can hold passwords."""
    path = save(CheckpointStore(tmp_path), 1)
    assert (path / "document.json").stat().st_mode & 0o077 == 0
