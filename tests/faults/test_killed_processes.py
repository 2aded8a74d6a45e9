"""kill -9 of every process of a run but the command: training goes on, and nothing acknowledged is lost.

One run serves all tests of this file, in the order of the file.
"""

import json
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from deploy.fleet import RunClient, launch
from deploy.run.folder import RunFolder
from learner.checkpoint import CheckpointStore
from replay.servers.configuration import socket_url
from replay.shards.shard import LOG_START, Shard
from replay.types import SegmentIdentity
from tests.helpers.deadline import patient, until
from tests.helpers.runs.catch_runs import catch_config, follow, metric
from tests.helpers.runs.processes import is_alive

SECONDS = 90
Running = tuple[RunClient, RunFolder]


@pytest.fixture(scope="module")
def run(shared_ray: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = tmp_path_factory.mktemp("runs")
    config = catch_config(
        path,
        run__ray_address=shared_ray,
        run__name="faults",
        actors__num_actors=2,
    )
    folder = RunFolder.create(config)
    client = launch(config, folder, resume=False)
    yield client, folder
    client.stop()
    status = client.wait_finished(patient(60))
    client.shutdown()
    assert status["state"] == "stopped"
    assert metric(status, "replay/rejected") == 0


def trains(client: RunClient, updates: int = 15) -> dict[str, Any]:
    """Wait until the run makes progress; gives the status then."""
    start = client.status()["metrics"].get("progress/updates", 0.0)
    return follow(client, lambda s: metric(s, "progress/updates") >= start + updates, "updates", SECONDS)


def shards(folder: RunFolder) -> list[Shard]:
    state = json.loads((folder.replay / "state.json").read_text())
    password = (folder.replay / "password").read_text().strip()
    urls = [socket_url(f"{state['sockets']}/{i}.sock", password) for i in range(len(state["pids"]))]
    return [Shard(url, run=folder.name, index=i) for i, url in enumerate(urls)]


def logged(shard: Shard) -> dict[SegmentIdentity, int]:
    """Items of every segment that the shard's log names and that is there, oldest first."""
    items = {e.identity: e.num_items for e in shard.read_log(LOG_START, 1_000_000) if e.identity is not None}
    segments = dict(zip(items, shard.fetch(list(items)), strict=True))
    return {identity: items[identity] for identity in items if segments[identity] is not None}


def writers(folder: RunFolder) -> set[tuple[int, int]]:
    """(slot, incarnation) of every actor that a segment in the shards is of."""
    return {(i.actor, i.incarnation) for shard in shards(folder) for i in logged(shard)}


def test_a_killed_actor_is_replaced_and_its_tickets_are_taken_back(run: Running) -> None:
    client, folder = run
    status = trains(client)
    victim = next(row for row in status["actors"] if row["slot"] == 0)
    os.kill(victim["pid"], signal.SIGKILL)
    incarnation = victim["incarnation"] + 1
    follow(
        client,
        lambda s: (
            (0, incarnation, "running") in {(r["slot"], r["incarnation"], r["state"]) for r in s["actors"]}
        ),
        "the next incarnation",
        SECONDS,
    )
    assert metric(trains(client), "actors/restarts") == 1
    follow(client, lambda _: (0, incarnation) in writers(folder), "segments of its own", SECONDS)

    def reclaimed(_: dict[str, Any]) -> bool:
        tickets = [ticket for shard in shards(folder) for ticket in shard.tickets().outstanding]
        waiting = [ticket.identity for ticket in tickets]
        return not any((i.actor, i.incarnation) == (0, victim["incarnation"]) for i in waiting)

    follow(client, reclaimed, "the dead actor's tickets", SECONDS)


def versions_since_checkpoint(folder: RunFolder, status: dict[str, Any]) -> float:
    checkpoint = CheckpointStore(folder.checkpoints).load_newest()
    published = metric(status, "learner/weights_version")
    return published - checkpoint.document["weights_version"] if checkpoint is not None else 0.0


def test_a_killed_learner_goes_on_from_its_checkpoint_and_the_replay_is_whole(run: Running) -> None:
    client, folder = run
    before = follow(
        client,
        lambda s: versions_since_checkpoint(folder, s) >= 3,
        "weights after a checkpoint",
        SECONDS,
    )
    pid = before["learner"]["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid), "its end")
    newest = CheckpointStore(folder.checkpoints).paths()[0].name
    follow(client, lambda s: s["learner"]["ready"] and s["learner"]["pid"] != pid, "another learner", SECONDS)
    assert re.search(rf"resuming at .* transitions in replay, from {newest}\n", folder.log_path.read_text())
    on = follow(
        client,
        lambda s: metric(s, "replay/inserted") >= metric(before, "replay/inserted"),
        "all that was inserted before",
        SECONDS,
    )
    assert metric(on, "replay/missing") == 0
    trains(client)
    # It counts its weights on from the newest published, not from the checkpoint's.
    assert "refused" not in folder.log_path.read_text()


def server_pid(folder: RunFolder) -> int | None:
    """Process id of shard 0's server, None while it is being started."""
    pid: int | None = json.loads((folder.replay / "state.json").read_text())["pids"][0]
    return pid


def test_a_killed_shard_server_comes_back_with_its_data(run: Running) -> None:
    """What its log named before the kill, and so was acknowledged, is there after it or was evicted."""
    client, folder = run
    before = trains(client)
    shard, pid = shards(folder)[0], server_pid(folder)
    acknowledged = logged(shard)
    assert pid is not None
    assert len(acknowledged) > 10
    os.kill(pid, signal.SIGKILL)
    follow(client, lambda _: server_pid(folder) not in (None, pid), "another server", SECONDS)
    kept = logged(shard)
    gone = [identity for identity in acknowledged if identity not in kept]
    assert gone == list(acknowledged)[: len(gone)], "others than the oldest are gone"
    after = trains(client)
    evicted = metric(after, "replay/evicted") - metric(before, "replay/evicted")
    assert sum(acknowledged[identity] for identity in gone) <= evicted
    follow(client, lambda _: bool(logged(shard).keys() - acknowledged.keys()), "new segments there", SECONDS)
    after = follow(
        client,
        lambda s: metric(s, "replay/inserted") > metric(before, "replay/inserted"),
        "new items",
        SECONDS,
    )
    assert metric(after, "replay/missing") == 0
    assert after["learner"]["pid"] == before["learner"]["pid"]


@pytest.mark.faults_long
def test_a_killed_supervisor_begins_over_from_the_folder(run: Running) -> None:
    client, _ = run
    before = trains(client)
    os.kill(before["pid"], signal.SIGKILL)
    after = follow(
        client,
        lambda s: s["pid"] != before["pid"] and s["state"] == "running" and len(s["actors"]) == 2,
        "another supervisor",
        SECONDS,
    )
    old = {(row["slot"], row["incarnation"]) for row in before["actors"]}
    assert not old & {(row["slot"], row["incarnation"]) for row in after["actors"]}
    follow(
        client,
        lambda s: metric(s, "replay/inserted") > metric(before, "replay/inserted"),
        "new items on top of the old",
        SECONDS,
    )
    trains(client)


@pytest.mark.faults_long
def test_a_killed_guardian_takes_the_servers_along_and_all_begins_over(run: Running) -> None:
    client, folder = run
    before = trains(client)
    os.kill(psutil.Process(server_pid(folder)).ppid(), signal.SIGKILL)
    after = follow(
        client,
        lambda s: s["pid"] != before["pid"] and s["state"] == "running" and s["learner"]["ready"],
        "another supervisor",
        SECONDS,
    )
    assert metric(after, "replay/missing") == 0
    follow(
        client,
        lambda s: metric(s, "replay/inserted") > metric(before, "replay/inserted"),
        "new items on top of the old",
        SECONDS,
    )
    trains(client)


@pytest.mark.faults_long
def test_without_the_weight_store_all_begins_over(run: Running) -> None:
    """Every role has its handle; without it the learner publishes to nobody, and actors keep old weights."""
    client, _ = run
    before = trains(client)
    raylet = psutil.Process(before["pid"]).parent()
    assert raylet is not None
    found = psutil.process_iter(["ppid", "cmdline"])  # with None for what has ended
    children = [p for p in found if p.info["ppid"] == raylet.pid]
    stores = [p for p in children if any("ray::WeightStore" in word for word in p.info["cmdline"] or ())]
    for store in stores:
        store.kill()
    assert stores
    after = follow(
        client,
        lambda s: s["pid"] != before["pid"] and s["state"] == "running" and s["learner"]["ready"],
        "another supervisor",
        SECONDS,
    )
    assert metric(after, "replay/missing") == 0
    trains(client)
