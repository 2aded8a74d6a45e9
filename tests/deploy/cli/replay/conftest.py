"""A stored run of 150 env steps, as it is, to be changed, and at work."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deploy.run.folder import RunFolder
from learner.checkpoint import CheckpointStore, with_prefix
from tests.helpers.replay.samplers import Run, ingest_all
from tests.helpers.runs.catch_runs import catch_config
from tests.helpers.runs.replay_command import SHARDS, SIGNATURE, servers_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run's folder as a run of 150 env steps leaves it, with a checkpoint after the first 100."""
    path = tmp_path_factory.mktemp("runs")
    folder = RunFolder.create(catch_config(path, run__name="r", replay__shards=SHARDS, replay__min_size=32))
    with servers_of(folder) as servers:
        config = folder.load_config().replay
        run = Run(servers.urls, SIGNATURE, config, name="r")
        for shard in run.shards:
            shard.check_meta(SIGNATURE)
        for actor in range(2):
            run.fill(actor, 50, actor=actor)
        sampler = run.sampler()
        ingest_all(sampler)
        batch = sampler.sample()
        sampler.update_priorities(batch.leaf, batch.generation, np.linspace(0, 5, 32))
        document, arrays = sampler.state()
        CheckpointStore(folder.checkpoints).save(
            7, with_prefix(arrays, "sampler"), {"update": 7, "env_steps": 100, "sampler": document}
        )
        run.fill(0, 50, actor=2)
    folder.write_json("fleet.json", {"target_actors": 3, "next_incarnation": {"0": 4, "1": 1, "2": 1}})
    return folder


@pytest.fixture
def folder(made: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of it that a test may change."""
    shutil.copytree(made.path, tmp_path / "runs" / "r")
    return RunFolder(tmp_path / "runs" / "r")


@pytest.fixture
def live(folder: RunFolder) -> Iterator[list[int | None]]:
    """The run at work: its lock held and its servers up; gives their process ids."""
    with folder.lock(), servers_of(folder) as servers:
        yield servers.pids
