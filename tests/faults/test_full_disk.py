"""A run whose disk is full for a while, servers' files, checkpoints, status, metrics and log on it.

On a small file system in memory, so that what fails is the system's own answer.
"""

import errno
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from deploy.fleet import RunClient, launch
from deploy.monitor.metrics import read_metrics
from deploy.run.folder import RunFolder
from learner.checkpoint import CheckpointStore
from replay.errors import ServersStopped
from replay.servers import embedded as embedded_servers
from replay.servers import full_disk
from replay.servers.embedded import EmbeddedServers
from replay.servers.folder_lock import lock_folder
from replay.servers.record import ServerRecord
from replay.shards.shard import Shard
from tests.helpers.deadline import patient, until
from tests.helpers.runs.catch_runs import catch_config, follow, metric
from tests.helpers.runs.processes import fill, may_mount, small_disk
from tests.helpers.shards.embedded import guardian_pid
from tests.helpers.shards.servers import MEMORY

pytestmark = pytest.mark.skipif(not may_mount(), reason="no right to mount a file system")


@pytest.fixture
def run(shared_ray: str, tmp_path: Path) -> Iterator[tuple[RunClient, RunFolder]]:
    with small_disk(tmp_path / "disk", megabytes=96) as disk:
        config = catch_config(
            disk, run__ray_address=shared_ray, run__name="full", learner__checkpoint_period=20
        )
        folder = RunFolder.create(config)
        client = launch(config, folder, resume=False)
        yield client, folder
        (disk / "filler").unlink(missing_ok=True)
        shutil.copy(folder.log_path, tmp_path)  # to be read after a failure
        client.shutdown()


def learns(client: RunClient, updates: float = 30) -> dict[str, Any]:
    start = metric(client.status(), "progress/updates")
    return follow(client, lambda s: metric(s, "progress/updates") >= start + updates, "updates", 90)


def test_a_full_disk_stops_nothing_for_good_and_costs_nothing(run: tuple[RunClient, RunFolder]) -> None:
    client, folder = run
    learns(client)
    filler = folder.path.parent / "filler"

    before: set[str] = set()

    def refused(name: str) -> bool:
        fill(filler)  # again: whatever gives up writing gives back what it had
        client.heartbeat()
        notes = [note for note in client.status()["notes"] if name in note and note not in before]
        return any("cannot be written: No space left on device" in note for note in notes)

    until(lambda: refused("status.json"), "a warning", 60, pause=0.2)
    until(lambda: refused("metrics.jsonl"), "another", 60, pause=0.2)
    full = client.status()
    pid, learner = full["pid"], full["learner"]["pid"]
    filler.unlink()
    status = learns(client)
    assert (status["pid"], status["learner"]["pid"]) == (pid, learner), "nobody died of it"
    follow(
        client, lambda s: any("metrics.jsonl can be written again" in n for n in s["notes"]), "all well", 60
    )

    written = metric(client.status(), "progress/updates")
    follow(
        client,
        lambda _: newest_update(folder) > written,
        "a checkpoint, so that the next refusal is told",
        60,
    )

    # Stopped while it is full: the last checkpoint is tried until there is room.
    before.update(client.status()["notes"])
    fill(filler)
    client.stop()
    until(lambda: refused("checkpoint of update"), "a refused checkpoint", 60, pause=0.2)
    filler.unlink()
    stopped = client.wait_finished(patient(60))
    assert stopped["state"] == "stopped", stopped["message"]
    newest = CheckpointStore(folder.checkpoints).load_newest()
    assert newest is not None
    assert newest.update == metric(stopped, "progress/updates")
    assert metric(stopped, "replay/inserted") == newest.document["env_steps"]
    assert (metric(stopped, "replay/lost"), metric(stopped, "replay/missing")) == (0, 0)
    check_metrics(folder)


def newest_update(folder: RunFolder) -> int:
    path = folder.newest_checkpoint()
    return int(path.name.removeprefix("update-")) if path else 0


def told(client: RunClient) -> str:
    return "\n".join(client.status()["notes"])


def check_metrics(folder: RunFolder) -> None:
    """metrics.jsonl has whole lines only, with none missing between: one at least every few seconds."""
    lines = folder.metrics_path.read_text().splitlines()
    records = list(read_metrics(folder.metrics_path))
    assert len(lines) == len(records) > 2
    times = [record["time"] for record in records]
    assert times == sorted(times)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of some MiB; who waits for room on it looks often."""
    monkeypatch.setattr(full_disk, "RETRY_S", 0.01)
    with small_disk(tmp_path / "disk", megabytes=8) as disk:
        yield disk


def embedded(disk: Path, should_stop: Callable[[], bool] = lambda: False) -> EmbeddedServers:
    return EmbeddedServers(
        disk / "replay",
        shards=1,
        append_fsync="everysec",
        maxmemory=MEMORY,
        should_stop=should_stop,
        room_seconds=math.inf,
    )


def test_who_takes_a_lock_needs_no_room(disk: Path) -> None:
    """The holder's name is in the file for people."""
    fill(disk / "filler")
    store = CheckpointStore(disk)
    held = store.hold()
    held.close()  # and nothing is left that it would have to write
    store.hold().close()
    os.close(lock_folder(disk / "lock"))


def test_servers_start_as_soon_as_there_is_room(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filler, asked = disk / "filler", []

    def makes_room_at_last() -> bool:
        if filler.exists():
            asked.append(1)
        if len(asked) % 10 == 0:
            filler.unlink(missing_ok=True)
        return False

    def filling(method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            if len(asked) == before:
                fill(filler)
            return method(*arguments)

        return wrapped

    for method in ("_write_configurations", "_start_guardian"):  # which then notes what it has started
        before = len(asked)
        with monkeypatch.context() as patch:
            patch.setattr(EmbeddedServers, method, filling(getattr(EmbeddedServers, method)))
            hurried = SimpleNamespace(
                monotonic=lambda: time.monotonic() + 1000 * len(asked), sleep=time.sleep
            )
            patch.setattr(embedded_servers, "time", hurried)
            with embedded(disk, makes_room_at_last) as started:
                assert None not in started.pids
            assert len(asked) == before + 10, method
    assert not list((disk / "replay").rglob(".tmp-*"))


def test_a_copy_by_hard_links_gets_files_of_its_own_when_there_is_room(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def refused_twice(paths: object) -> None:
        attempts.append(paths)
        if len(attempts) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(embedded_servers, "unshare", refused_twice)
    with embedded(disk) as started:
        assert None not in started.pids
    assert len(attempts) == 3


def test_who_waits_for_room_can_be_told_to_stop(disk: Path) -> None:
    (disk / "replay").mkdir()
    fill(disk / "filler")
    with pytest.raises(ServersStopped, match="room on the disk"):
        embedded(disk, lambda: True).start()


def test_a_server_that_came_back_meanwhile_is_noted_when_there_is_room(disk: Path) -> None:
    filler = disk / "filler"
    with embedded(disk) as started:
        before, guardian = started.pids[0], psutil.Process(guardian_pid(started))
        assert before is not None
        fill(filler)
        os.kill(before, signal.SIGKILL)
        until(lambda: {p.pid for p in guardian.children()} - {before}, "another process")
        Shard(
            started.urls[0], run="r", index=0
        ).administration.info()  # answers some time after it was to be noted
        assert started.pids == [before]
        filler.unlink()
        until(lambda: started.pids != [before], "a note of it")


def test_a_record_that_says_the_same_is_left_as_it_is(disk: Path) -> None:
    record = ServerRecord(disk)
    record.write(version="8.1.8", shards=1)
    fill(disk / "filler")
    record.write(shards=1)
    with pytest.raises(OSError, match="No space left"):
        record.write(shards=2)
