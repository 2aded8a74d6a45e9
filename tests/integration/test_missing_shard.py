"""A run on servers of the user's own goes on while one of them is gone, and ends when another owner comes."""

from collections.abc import Callable
from typing import Any

import pytest

from deploy.cli.main import main
from deploy.fleet import RunClient, connect
from deploy.run.folder import RunFolder
from replay.sampler import Sampler
from replay.shards.records import Owner
from replay.shards.shard import LOG_START, Shard
from replay.types import Signature
from tests.helpers.deadline import patient, until
from tests.helpers.runs.catch_runs import follow, metric
from tests.helpers.shards.faulty_servers import FaultyServer


def learns_on(client: RunClient, updates: float, parked_shards: int) -> dict[str, Any]:
    """The status once it has made that many updates and has so many shards parked."""

    def reached(status: dict[str, Any]) -> bool:
        parked = metric(status, "replay/parked_shards") == parked_shards
        parked = parked and bool(metric(status, "replay/parked")) == bool(parked_shards)
        return parked and metric(status, "progress/updates") >= updates

    return follow(client, reached, f"{updates} updates, {parked_shards} shards parked", 60)


def resume_detached(folder: RunFolder) -> RunClient:
    assert main(["resume", str(folder.path), "--total-env-steps", "1000000", "--detach"]) == 0
    return connect(folder)


@pytest.mark.faults_long
def test_a_resume_goes_on_without_a_shard_until_it_is_back_and_until_another_owner_comes(
    servers: list[FaultyServer],
    start_run: Callable[..., tuple[RunClient, RunFolder]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("deploy.run.preflight.ANSWER_SECONDS", 0.3)
    urls = tuple(server.network_url("hidden-word") for server in servers)
    client, folder = start_run(replay__urls=urls[:1], replay__min_size=200, run__name="r")
    learns_on(client, 10, 0)
    client = with_another_shard(folder, urls, capsys)
    learns_on(client, 40, 0)
    client.stop()
    stopped = client.wait_finished(patient(60))
    client.shutdown()
    assert stopped["state"] == "stopped", stopped["message"]
    updates = metric(stopped, "progress/updates")

    for server in servers:
        server.kill()
    capsys.readouterr()
    assert main(["resume", str(folder.path)]) == 2, "no shard at all"
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert f"{folder.config_path}: --replay.urls: shard 0 (redis://127.0.0.1:" in said.err
    servers[0].start()
    others = ["--replay.urls", *urls, "--name", "new", "--ray-address", folder.load_config().run.ray_address]
    assert main(["train", "--runs-dir", str(folder.path.parent), *others]) == 2, "a URL with a mistake in it"
    assert "--replay.urls: shard 1 (redis://127.0.0.1:" in capsys.readouterr().err

    client = resume_detached(folder)
    try:
        said = capsys.readouterr()
        assert "WARNING: shard 1 (redis://127.0.0.1:" in said.out
        assert "the others continue" in said.out
        assert "hidden-word" not in said.out + said.err
        without = learns_on(client, updates + 10, 1)
        assert "items wait for a shard that does not answer" in " ".join(without["notes"])
        parked = metric(without, "replay/parked")
        servers[1].start()
        whole = learns_on(client, metric(without, "progress/updates") + 10, 0)
        assert metric(whole, "replay/size") >= metric(without, "replay/size") + parked
        assert metric(whole, "replay/lost") == 0
        second_owner_ends(client, folder, urls)
    finally:
        client.shutdown()


def with_another_shard(
    folder: RunFolder, urls: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> RunClient:
    """The run gets the second server while it learns, and writes there."""
    for flags, said in (
        (["--shards", "2"], "--shards 2: the run has servers of your own: --add-urls adds one"),
        (["--add-urls", urls[0]], "--add-urls: names one shard twice"),
        (["--add-urls", "redis://127.0.0.1:1"], "--add-urls: shard 0 (redis://127.0.0.1:1/0) cannot be"),
    ):
        assert main(["scale", str(folder.path), *flags]) == 2
        assert said in capsys.readouterr().err
    more = folder.path.parent / "more"
    more.write_text(urls[1] + "\n")
    assert main(["scale", str(folder.path), "--add-urls", f"@{more}"]) == 0
    assert "r: 2 shards asked for" in (out := capsys.readouterr().out)
    assert "hidden-word" not in out
    client, shard = connect(folder), Shard(urls[1], run="r", index=1)
    until(lambda: client.heartbeat() or len(shard.read_log(LOG_START, 10_000)) > 5, "its segments", 60)
    assert folder.load_config().replay.urls == urls
    assert "hidden-word" not in folder.config_path.read_text() + folder.log_path.read_text()
    return client


def second_owner_ends(client: RunClient, folder: RunFolder, urls: tuple[str, ...]) -> None:
    """Somebody starts another sampler on the run's shards: its learner fails, and is not started again."""
    config = folder.load_config()
    shards = [Shard(url, run=folder.name, index=index) for index, url in enumerate(urls)]
    signature = Signature((84, 84), 1, config.replay.n_step, 3)
    second = Sampler(
        config.replay, shards, run=folder.name, signature=signature, batch_size=32, samples_per_insert=8.0,
        seed=1,
    )  # fmt: skip
    second.take_ownership()
    ended = client.wait_finished(patient(60))
    assert ended["state"] == "failed"
    assert "belongs to a later sampler: this one ends" in ended["message"]
    assert ended["message"].count("\n") == 0
    assert len({shard.owning.owner() for shard in shards} - {Owner()}) == 1, "it took nothing back"
    second.close()
