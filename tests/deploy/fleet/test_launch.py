"""A start that fails leaves no Ray behind."""

import errno
from pathlib import Path
from typing import Any

import pytest

from deploy.fleet import client, launch
from deploy.fleet.ray import cluster
from deploy.fleet.ray.cluster import LocalRay
from deploy.run.folder import RunFolder
from tests.helpers.runs.catch_runs import catch_config


def test_a_ray_that_cannot_be_noted_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, ended = LocalRay("address", 0, "/nowhere"), []

    def save_ray(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cluster, "start_local", lambda: started)
    monkeypatch.setattr(client, "save_ray", save_ray)
    monkeypatch.setattr(LocalRay, "end", lambda local: ended.append(local))
    # Another test's Ray, which this process may be connected to, stays.
    monkeypatch.setattr(client.ray, "is_initialized", lambda: False)
    folder = RunFolder.create(catch_config(tmp_path))
    with pytest.raises(OSError, match="No space left"):
        launch(folder.load_config(), folder, resume=False)
    assert ended == [started]
