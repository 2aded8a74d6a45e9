"""Checkpoints are written beside the loop, and a disk that refuses them is tried again."""

import errno
import threading
from pathlib import Path

import numpy as np
import pytest

from learner import checkpoint_writer
from learner.checkpoint import CheckpointStore
from learner.checkpoint_writer import CheckpointWriter, Snapshot
from learner.errors import CheckpointNotWritten
from tests.helpers.deadline import patient, until


def snapshot(update: int) -> Snapshot:
    return Snapshot(update, {"weight": np.full(3, update)}, {"update": update})


class Disk(CheckpointStore):
    """A store on a disk that is full until `room` is set; `reached` counts attempts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.room = threading.Event()
        self.attempts: list[int] = []

    def save(self, update, tensors, document):
        self.attempts.append(update)
        if not self.room.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().save(update, tensors, document)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_writer, "RETRY_SECONDS", (0.01, 0.05))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "checkpoints")


def test_a_loop_hands_over_and_goes_on(disk: Disk) -> None:
    """The loop comes back while the disk still refuses, and what it was given is written later."""
    notes: list[str] = []
    writer = CheckpointWriter(disk, note=notes.append)
    writer.submit(snapshot(1))
    until(lambda: bool(notes), "a refusal")
    assert disk.paths() == []
    disk.room.set()
    writer.close()
    assert [path.name for path in disk.paths()] == ["update-000000001"]
    assert notes[0] == (
        "checkpoint of update 1 cannot be written: No space left on device;"
        " it is tried again, earlier checkpoints stay"
    )


@pytest.mark.usefixtures("quick")
def test_a_full_disk_is_tried_again_until_there_is_room_and_told_once(disk: Disk) -> None:
    notes: list[str] = []
    writer = CheckpointWriter(disk, note=notes.append)
    writer.submit(snapshot(1))
    until(lambda: len(disk.attempts) > 3, "attempts")
    disk.room.set()
    until(lambda: len(notes) == 2, "the note that all is well")
    assert notes[1] == "checkpoints can be written again: update-000000001"
    writer.close()
    assert set(disk.attempts) == {1}


@pytest.mark.usefixtures("quick")
def test_a_newer_snapshot_stands_in_for_one_that_waits(disk: Disk) -> None:
    writer = CheckpointWriter(disk, note=lambda text: None)
    writer.submit(snapshot(1))
    until(lambda: bool(disk.attempts), "an attempt")
    writer.submit(snapshot(2))
    until(lambda: 2 in disk.attempts, "an attempt with the newer one")
    disk.room.set()
    until(lambda: bool(disk.paths()), "a checkpoint")
    writer.close()
    assert [path.name for path in disk.paths()] == ["update-000000002"]


@pytest.mark.usefixtures("quick")
def test_the_last_one_is_waited_for(disk: Disk) -> None:
    writer = CheckpointWriter(disk, note=lambda text: None, last_seconds=patient(30))
    threading.Timer(0.1, disk.room.set).start()
    assert writer.finish(snapshot(3)).name == "update-000000003"
    writer.close()


@pytest.mark.usefixtures("quick")
def test_the_last_one_is_given_up_with_a_reason_and_those_before_are_whole(disk: Disk) -> None:
    disk.room.set()
    writer = CheckpointWriter(disk, note=lambda text: None, last_seconds=0.3)
    before = writer.finish(snapshot(4))
    disk.room.clear()
    with pytest.raises(CheckpointNotWritten) as refused:
        writer.finish(snapshot(5))
    assert str(refused.value) == (
        "the last checkpoint, of update 5, cannot be written: No space left on device;"
        " the newest is update-000000004"
    )
    writer.close()
    assert disk.load(before).update == 4


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("refuses", [False, True])
def test_a_save_in_progress_when_time_is_up_counts_and_nothing_is_written_later(
    tmp_path: Path, refuses: bool
) -> None:
    begun: list[int] = []

    class SlowDisk(CheckpointStore):
        def save(self, update, tensors, document):
            begun.append(update)
            assert released.wait(patient(30))
            if refuses and len(begun) == 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().save(update, tensors, document)

    released, store = threading.Event(), SlowDisk(tmp_path / "checkpoints")
    writer = CheckpointWriter(store, note=lambda text: None, last_seconds=0.1)
    threading.Timer(0.3, released.set).start()
    try:
        said = [writer.finish(snapshot(7))]
    except CheckpointNotWritten:
        said = []
    until(lambda: writer._thread is None or len(begun) > 1 or bool(store.paths()), "the end of the writing")
    writer.close()
    assert store.paths() == said
    assert said or refuses


def test_the_same_update_is_written_anew(disk: Disk) -> None:
    """A run that ends right after a periodic checkpoint has more to say: items that came since."""
    disk.room.set()
    writer = CheckpointWriter(disk, note=lambda text: None)
    writer.finish(snapshot(6))
    path = writer.finish(Snapshot(6, {"weight": np.zeros(1)}, {"update": 6, "more": True}))
    writer.close()
    assert disk.load(path).document["more"]


def test_one_process_saves_at_a_time(disk: Disk) -> None:
    held = disk.hold()
    taken: list[object] = []
    waiting = threading.Thread(target=lambda: taken.append(CheckpointStore(disk.folder).hold()))
    waiting.start()
    waiting.join(0.1)
    assert not taken
    held.close()
    waiting.join(patient(10))
    assert taken
