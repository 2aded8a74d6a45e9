"""Checkpoints are whole or skipped: damage of any kind, what is kept, what their files are."""

import json
import logging
import threading
from pathlib import Path

import pytest
import torch

from learner.checkpoint import CheckpointStore
from learner.errors import CheckpointError
from tests.helpers.deadline import patient, until
from tests.helpers.learner.checkpoints import save, tensors


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


@pytest.fixture
def meanwhile(monkeypatch):
    """Have something done by another thread just before the mark of a best checkpoint takes its place."""
    work, threads, replace = [], [], Path.replace

    def late(path, target):
        if work:
            threads.append(threading.Thread(target=work.pop()))
            threads[0].start()
            threads[0].join(0.3)  # it may have to wait for the mark
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", late)
    yield work.append
    for thread in threads:
        thread.join(patient(10))
        assert not thread.is_alive()


def test_of_two_that_mark_at_once_the_higher_score_wins(tmp_path, meanwhile):
    store = CheckpointStore(tmp_path)
    lower, higher = save(store, 1), save(store, 2)
    meanwhile(lambda: CheckpointStore(tmp_path).mark_best(higher, 9.0))
    assert store.mark_best(lower, 5.0)
    until(lambda: store.best() == (higher, 9.0), "the higher score")


def test_a_learner_that_starts_leaves_the_mark_that_an_evaluator_is_writing(tmp_path, meanwhile):
    store = CheckpointStore(tmp_path)
    path = save(store, 1)
    meanwhile(CheckpointStore(tmp_path).remove_leftovers)
    assert store.mark_best(path, 5.0)
    assert store.best() == (path, 5.0)


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
