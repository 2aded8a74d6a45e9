"""A run whose disk is full for a while, servers' files, checkpoints, status, metrics and log on it.

On a small file system in memory, so that what fails is the system's own answer.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.fleet import RunClient, launch
from deploy.monitor.metrics import read_metrics
from deploy.run_folder import RunFolder
from learner.checkpoint import CheckpointStore
from tests.helpers.deadline import patient, until
from tests.helpers.processes import fill, may_mount, small_disk
from tests.helpers.runs import catch_config, follow, metric

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

    def refused(name: str) -> bool:
        fill(filler)  # again: whatever gives up writing gives back what it had
        client.heartbeat()
        notes = [note for note in client.status()["notes"] if name in note]
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

    # Stopped while it is full: the last checkpoint is tried until there is room.
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


def told(client: RunClient) -> str:
    return "\n".join(client.status()["notes"])


def check_metrics(folder: RunFolder) -> None:
    """metrics.jsonl has whole lines only, with none missing between: one at least every few seconds."""
    lines = folder.metrics_path.read_text().splitlines()
    records = list(read_metrics(folder.metrics_path))
    assert len(lines) == len(records) > 2
    times = [record["time"] for record in records]
    assert times == sorted(times)
