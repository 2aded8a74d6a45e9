"""A run's folder that is renamed while the run is at work: nothing is ended, or written, for want of it."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

import deploy.fleet
from deploy.cli.main import main
from deploy.fleet.client import connect
from deploy.fleet.ray import cluster
from deploy.fleet.run_state import save_ray
from deploy.monitor.metrics import MetricsSink
from deploy.run.config import with_values
from deploy.run.folder import RunFolder
from deploy.run.presets import LAPTOP
from learner.checkpoint import CheckpointStore
from learner.diagnostics.files import save_arrays


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "before"


@pytest.fixture
def after(before: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolder]:
    """The folder under its new name, with the lock of a supervisor that is at work."""
    folder = RunFolder.create(
        with_values(LAPTOP, run__runs_dir=str(before.parent), run__name=before.name, run__detach=True)
    )
    save_ray(folder, None, "address")
    status = {"run": "r", "state": "running", "time": time.time() - 60, "metrics": {}, "message": ""}
    folder.write_json("status.json", folder.marked(status))
    monkeypatch.setattr(cluster, "connect", lambda *_: None)
    monkeypatch.setattr(deploy.fleet, "end_leftovers", lambda _: pytest.fail("its Ray is ended"))
    with folder.lock():
        yield RunFolder(folder.path.rename(before.with_name("after")))


def test_it_is_not_stopped_but_told_how_to_be_found(
    after: RunFolder, before: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = f"ln -sT {after.path} {before}"
    for words in (["stop"], ["scale", "--actors", "2"]):
        assert main([words[0], str(after.path), *words[1:]]) == 2
        error = capsys.readouterr().err
        assert link in error
        assert error.count("\n") == 1
    assert main(["status", str(after.path), "--json"]) == 0
    assert link in capsys.readouterr().out


def test_with_a_link_at_the_old_place_its_supervisor_is_found(
    after: RunFolder, before: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before.symlink_to(after.path)
    asked: list[str] = []
    monkeypatch.setattr(ray, "get_actor", lambda name, _: asked.append(name))
    for folder in (after, RunFolder(before)):
        connect(folder)
    assert asked == [f"supervisor:{before}"] * 2
    assert main(["status", str(after.path), "--json"]) == 0
    assert "ln -sT" not in capsys.readouterr().out


def test_what_is_written_to_the_old_place_makes_no_folder_there(after: RunFolder, before: Path) -> None:
    assert after.path.is_dir()
    store = CheckpointStore(before / "checkpoints")
    with pytest.raises(FileNotFoundError):
        store.save(1, {}, {})
    with pytest.raises(FileNotFoundError):
        store.hold()
    with pytest.raises(FileNotFoundError):
        save_arrays(before, 1, {"a": np.zeros(1)})
    sink = MetricsSink(before, note=lambda _: None)
    sink.write({"progress/env_steps": 1.0}, env_steps=1)
    sink.close()
    assert not before.exists()
