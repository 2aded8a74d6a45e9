"""A run's folder with checkpoints, and a folder that stands for an object store."""

from pathlib import Path

import pytest
import torch

from deploy.run.config import with_values
from deploy.run.folder import RunFolder
from learner.checkpoint import CheckpointStore
from tests.helpers.runs.catch_runs import catch_config


class UploadedRun:
    """A run named `r` that copies its checkpoints to `bucket`, and what its uploader tells."""

    def __init__(self, root: Path, **changes: object) -> None:
        self.bucket = root / "bucket"
        self.url = f"file://{self.bucket}"
        config = catch_config(root / "runs", run__name="r", run__checkpoints_to=self.url, **changes)
        self.config = with_values(config, learner__keep_checkpoints=2)
        self.folder = RunFolder.create(self.config)
        self.store = CheckpointStore(self.folder.checkpoints, keep=5)
        self.notes: list[str] = []

    def save(self, update: int) -> Path:
        """A checkpoint as the learner's, as far as uploads look at it."""
        accounts = {"accounts": {"writers": {"0.0": {}, "1.4": {}}}}
        document = {"update": update, "env_steps": 4 * update, "sampler": {"reader": accounts}}
        return self.store.save(update, {"online/w": torch.tensor([float(update)])}, document)

    @property
    def place(self) -> Path:
        return self.bucket / "r"

    def manifests(self) -> list[str]:
        return sorted(path.name for path in self.place.glob("update-*.json"))

    def folders(self) -> list[str]:
        return sorted(path.name[:-9] for path in self.place.glob("update-*") if path.is_dir())


@pytest.fixture
def run(tmp_path: Path) -> UploadedRun:
    return UploadedRun(tmp_path)
