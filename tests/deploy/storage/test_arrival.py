"""A run that is fetched from elsewhere: the newest whole upload, and what differs on the new machine."""

import json
from pathlib import Path

import pytest

from deploy.run.config import ConfigError
from deploy.run.errors import RunExists, RunNotFound
from deploy.run.folder import FLEET, METADATA, STATUS
from deploy.storage.arrival import Changes, fetch_run
from learner.checkpoint import CheckpointStore
from tests.deploy.storage.conftest import UploadedRun
from tests.deploy.storage.test_uploads import upload


@pytest.fixture
def uploaded(run: UploadedRun) -> UploadedRun:
    run.folder.metrics_path.write_text('{"progress/env_steps": 4}\n')
    run.folder.write_json(FLEET, {"target_actors": 2, "next_incarnation": {"0": 3}})
    run.folder.write_json(STATUS, {"state": "running", "metrics": {"progress/env_steps": 4.0}, "time": 1.0})
    upload(run, 1, 2)
    return run


def elsewhere(run: UploadedRun, tmp_path: Path, **changes: object) -> tuple[object, list[str]]:
    lines: list[str] = []
    folder = fetch_run(f"{run.url}/r/", str(tmp_path / "there"), Changes(**changes), lines.append)
    return folder, lines


def test_the_newest_becomes_a_run(uploaded: UploadedRun, tmp_path: Path) -> None:
    folder, lines = elsewhere(uploaded, tmp_path, shards=3, device="cpu", replay_folder="/local")
    assert lines == [f"r: update-000000002 of {uploaded.url}/r is in {tmp_path / 'there' / 'r'}"]
    checkpoint = CheckpointStore(folder.checkpoints).load_newest()
    assert (checkpoint.update, checkpoint.tensors["online/w"].item()) == (2, 2.0)
    config = folder.load_config()
    assert (config.run.name, config.run.checkpoints_to) == ("r", uploaded.url)
    assert (config.replay.shards, config.replay.folder, config.learner.device) == (3, "/local", "cpu")
    assert config.actors == uploaded.config.actors
    # Numbers that any segment may have are not used again.
    assert folder.read_json(FLEET, {})["next_incarnation"] == {"0": 3, "1": 5}
    assert folder.read_json(STATUS, {})["state"] == "stopped"
    assert folder.metrics_path.read_text() == '{"progress/env_steps": 4}\n'
    assert folder.identity is not None
    assert folder.identity.id != uploaded.folder.identity.id
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["r"]


@pytest.mark.parametrize("damage", ["missing", "changed", "cut", "no manifest", "bad manifest"])
def test_an_upload_that_is_not_whole_is_passed_over(
    uploaded: UploadedRun, tmp_path: Path, damage: str
) -> None:
    manifest = uploaded.place / "update-000000002.json"
    tensors = uploaded.place / json.loads(manifest.read_bytes())["folder"] / "checkpoint/tensors.safetensors"
    if damage == "missing":
        tensors.unlink()
    elif damage == "changed":
        tensors.write_bytes(tensors.read_bytes()[:-1] + b"x")
    elif damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-1])
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_bytes(b"{")
    folder, lines = elsewhere(uploaded, tmp_path)
    assert [path.name for path in CheckpointStore(folder.checkpoints).paths()] == ["update-000000001"]
    assert [line for line in lines if "passing over" in line] == [
        line for line in lines[:-1] if "update-000000002: " in line
    ]
    # What was interrupted before its manifest was written is nothing that could be passed over.
    assert len(lines) == (1 if damage == "no manifest" else 2)


def test_the_best_comes_too(run: UploadedRun, tmp_path: Path) -> None:
    first = run.save(1)
    run.store.mark_best(first, 5.0)
    upload(run, 2, 3, 4)
    folder, _ = elsewhere(run, tmp_path)
    store = CheckpointStore(folder.checkpoints)
    assert [path.name[-1] for path in store.paths()] == ["4", "1"]
    assert store.best() == (store.paths()[1], 5.0)


def test_a_second_time_the_run_that_is_here_is_resumed(uploaded: UploadedRun, tmp_path: Path) -> None:
    folder, _ = elsewhere(uploaded, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    again, lines = elsewhere(uploaded, tmp_path)
    assert again.path == folder.path
    assert "is here already, and no older" in lines[0]
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before


def test_an_older_run_here_is_not_overwritten(uploaded: UploadedRun, tmp_path: Path) -> None:
    folder, _ = elsewhere(uploaded, tmp_path)
    (folder.checkpoints / "update-000000002").rename(folder.checkpoints / "update-000000001")
    with pytest.raises(RunExists, match=r"at update 1, and .* is at 2, from another machine: rename or"):
        elsewhere(uploaded, tmp_path)
    (folder.path / METADATA).write_text("{}")
    with pytest.raises(RunExists, match=r"is another run of that name than .*; choose another --runs-dir"):
        elsewhere(uploaded, tmp_path)


def test_nothing_there_is_one_line(run: UploadedRun, tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="no run has been uploaded there"):
        elsewhere(run, tmp_path)
    assert not (tmp_path / "there").exists()


def test_without_passwords_servers_are_asked_for(tmp_path: Path) -> None:
    run = UploadedRun(tmp_path, replay__urls=("redis://:secret@127.0.0.1:1",))
    upload(run, 1)
    assert not any(b"secret" in path.read_bytes() for path in run.bucket.rglob("*") if path.is_file())
    with pytest.raises(ConfigError, match=r"an upload holds no passwords, and redis://:\*\*\*@127"):
        elsewhere(run, tmp_path)
    folder, _ = elsewhere(run, tmp_path, shards=2)
    assert (folder.load_config().replay.urls, folder.load_config().replay.shards) == ((), 2)


def test_on_the_same_servers_the_keys_stay_the_runs_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.storage.arrival.ANSWER_SECONDS", 0.05)
    run = UploadedRun(tmp_path, replay__urls=("redis://127.0.0.1:1",))
    upload(run, 1)
    folder, _ = elsewhere(run, tmp_path)
    assert folder.identity is not None
    assert folder.identity.id == run.folder.identity.id
    # The server does not say which numbers were used since: many are left out.
    assert folder.read_json(FLEET, {})["next_incarnation"] == {"0": 101, "1": 105}
