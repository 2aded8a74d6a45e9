"""`--replay.folder`: whose files are where, and that no two run folders share them."""

import shutil
from pathlib import Path

import pytest

from deploy.cli.run.summary import place_lines
from deploy.replays.place import replay_folder
from deploy.replays.source import served
from deploy.run.config import ConfigError
from deploy.run.folder import RunFolder
from deploy.run.preflight import with_checked_replay_folder
from replay.shards.shard import Shard
from tests.helpers.runs.catch_runs import catch_config


def test_each_runs_folder_has_one_of_its_own(tmp_path: Path) -> None:
    config = catch_config(tmp_path / "runs", run__name="r", replay__folder=str(tmp_path / "disk"))
    folder = RunFolder.create(config)
    own = replay_folder(folder, config)
    assert folder.identity is not None
    assert own == tmp_path / "disk" / f"r-{folder.identity.id}"
    assert place_lines(config, folder) == [f"replay: the embedded servers' files are in {own}"]
    copy = RunFolder(Path(shutil.copytree(folder.path, tmp_path / "runs" / "copy")))
    assert replay_folder(copy, config) != own
    copy.settle(copy.drawn_identity())
    assert replay_folder(copy, config) not in (own, folder.replay)
    moved = RunFolder(folder.path.rename(tmp_path / "runs" / "moved"))
    assert replay_folder(moved, config) == own


def test_servers_write_there(tmp_path: Path) -> None:
    config = catch_config(
        tmp_path / "runs", run__name="r", replay__folder=str(tmp_path / "disk"), replay__shards=1
    )
    folder = RunFolder.create(config)
    with served(folder, config, live=False, create=True) as (url,):
        assert Shard(url, run="r", index=0).administration.info()["version"]
    assert (replay_folder(folder, config) / "shard-0").is_dir()
    assert list(folder.replay.iterdir()) == []
    copy = RunFolder(Path(shutil.copytree(folder.path, tmp_path / "runs" / "copy")))
    with pytest.raises(ConfigError, match=r"has no replay: nothing was ever stored in .*disk"):
        served(copy, config, live=False).__enter__()


def test_what_cannot_be_used_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = catch_config(tmp_path, run__name="r", replay__folder="disk")
    assert with_checked_replay_folder(config).replay.folder == str(tmp_path / "disk")
    (tmp_path / "disk").write_text("a file")
    with pytest.raises(ConfigError, match=r"^--replay.folder .*disk: .* is no folder that can be written"):
        with_checked_replay_folder(config)
    own = catch_config(tmp_path, run__name="r", replay__folder="disk", replay__urls=("redis://a:1",))
    with pytest.raises(ConfigError, match=r"is for embedded servers; --replay.urls names your own"):
        with_checked_replay_folder(own)
