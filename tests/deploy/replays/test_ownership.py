"""A run's folder on servers of the user's own: what a refusal says."""

import contextlib
import json
import shutil
import time
from pathlib import Path

import pytest

from deploy.fleet import operations
from deploy.fleet.errors import FleetError
from deploy.replays.ownership import claim_new, claim_resumed
from deploy.run.config import Config, ConfigError
from deploy.run.folder import RunFolder
from replay.shards.shard import Shard
from tests.helpers.runs.catch_runs import catch_config
from tests.helpers.shards.servers import fresh_run, shared_urls


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return catch_config(tmp_path / "runs", run__name=fresh_run(), replay__urls=tuple(shared_urls()[:1]))


def resume(config: Config, folder: RunFolder) -> None:
    claim_resumed(config, folder, folder.drawn_identity())


def test_a_folder_on_a_file_system_mounted_anew_is_told_how_it_keeps_its_keys(config: Config) -> None:
    """Its device has got another number, without a reboot; to us it is like a snapshot's folder."""
    folder = RunFolder.create(config)
    claim_new(config, folder)
    path = folder.path / "identity.json"
    noted = json.loads(path.read_text())
    folder.write_json(path.name, noted | {"device": noted["device"] + 1})
    with pytest.raises(ConfigError, match=r"was .* copied\?") as refusal:
        resume(config, folder)
    assert f'write "device": {noted["device"]} into {path}' in str(refusal.value)
    folder.write_json(path.name, noted)
    resume(config, folder)


def test_a_copy_is_not_told_so(config: Config, tmp_path: Path) -> None:
    folder = RunFolder.create(config)
    claim_new(config, folder)
    copy = RunFolder(Path(shutil.copytree(folder.path, tmp_path / "copy")))
    with pytest.raises(ConfigError, match=r"was .* copied\?") as refusal:
        resume(config, copy)
    assert "device" not in str(refusal.value)


def test_a_server_is_not_claimed_for_a_run_that_does_not_answer(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.create(config)
    status = {"run": folder.name, "state": "running", "time": time.time(), "metrics": {}, "message": ""}
    folder.write_json("status.json", folder.marked(status))

    def silent(folder: RunFolder) -> None:
        raise FleetError(f"{folder.name} is not running")

    monkeypatch.setattr(operations, "connect", silent)
    more = shared_urls()[1]
    with pytest.raises(FleetError, match="is not running"):
        operations.scale(folder, add_urls=(more,))
    with contextlib.closing(Shard(more, run=folder.name, index=1)) as shard:
        assert shard.administration.folder_id() == ""
