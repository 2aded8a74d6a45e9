"""`apexpert scale --shards`: a run gets one more embedded server while it learns, and keeps it."""

from collections.abc import Callable

import pytest

from deploy.cli.main import main
from deploy.fleet import RunClient, connect
from deploy.run.folder import RunFolder
from replay.servers.configuration import socket_url
from replay.shards.shard import LOG_START, Shard
from tests.helpers.deadline import patient, until
from tests.helpers.runs.catch_runs import follow, metric

Start = Callable[..., tuple[RunClient, RunFolder]]


def learns_on(client: RunClient, shard: Shard, entries: int) -> None:
    """Whether it learns, with more than so many segments in that shard."""
    start = follow(client, lambda s: metric(s, "progress/updates") > 0, "updates", 60)
    until(lambda: client.heartbeat() or len(shard.read_log(LOG_START, 10_000)) > entries, "its segments", 60)
    done = metric(start, "progress/updates") + 20
    after = follow(client, lambda s: metric(s, "progress/updates") > done, "more updates", 60)
    assert metric(after, "replay/lost") + metric(after, "replay/parked_shards") == 0


def embedded(folder: RunFolder, index: int) -> Shard:
    password = (folder.replay / "password").read_text()
    sockets = folder.read_json("replay/state.json", {})["sockets"]
    return Shard(socket_url(f"{sockets}/{index}.sock", password), run=folder.name, index=index)


@pytest.mark.faults_long
def test_an_embedded_server_is_added(start_run: Start, capsys: pytest.CaptureFixture[str]) -> None:
    client, folder = start_run(replay__shards=1, replay__min_size=200, run__name="r")
    follow(client, lambda s: metric(s, "progress/updates") > 20, "updates", 60)
    assert main(["scale", str(folder.path), "--shards", "1"]) == 2
    assert "--shards 1: must be more than the 1 that the run has" in capsys.readouterr().err
    assert main(["scale", str(folder.path), "--add-urls", "redis://h"]) == 2
    assert "--add-urls: the run has embedded servers" in capsys.readouterr().err
    assert main(["scale", str(folder.path), "--shards", "2"]) == 0
    assert "r: 2 shards asked for" in capsys.readouterr().out
    client = connect(folder)
    follow(client, lambda s: "shard added: 2 shards" in " ".join(s["notes"]), "the shard", 30)
    learns_on(client, embedded(folder, 1), 5)
    client.stop()
    stopped = client.wait_finished(patient(60))
    client.shutdown()
    assert stopped["state"] == "stopped", stopped["message"]
    inserted = metric(stopped, "replay/inserted")
    assert folder.load_config().replay.shards == 2
    assert main(["resume", str(folder.path), "--total-env-steps", "1000000", "--detach"]) == 0
    client = connect(folder)
    try:
        follow(client, lambda s: metric(s, "replay/inserted") > inserted + 100, "more steps", 60)
        learns_on(client, embedded(folder, 1), 10)
    finally:
        client.shutdown()
