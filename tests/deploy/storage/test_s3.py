"""Uploads to a real server of S3's kind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.run.config import ConfigError, with_values
from deploy.storage.arrival import Changes, fetch_run
from deploy.storage.owner import claim_place
from deploy.storage.uploader import Uploader
from learner.checkpoint import CheckpointStore
from tests.deploy.storage.conftest import UploadedRun
from tests.helpers.deadline import until
from tests.helpers.object_store import ObjectStore, as_environment, object_store

URL = "s3://bucket/prefix"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    with object_store(tmp_path) as store, as_environment(store):
        yield store


def test_uploads_survive_the_store_and_an_upload_that_was_cut(
    run: UploadedRun, store: ObjectStore, tmp_path: Path
) -> None:
    config = with_values(run.config, run__checkpoints_to=URL)
    run.folder.save_config(config)
    with pytest.raises(ConfigError, match=r"^--checkpoints-to s3://buckets/r: .*bucket does not exist"):
        claim_place(run.folder, with_values(config, run__checkpoints_to="s3://buckets"), new=True)
    assert claim_place(run.folder, config, new=True) == ""
    copies = Uploader(run.folder, run.store, config, note=run.notes.append, retry_seconds=(0.1, 0.2))
    copies.submit(run.save(1))
    until(lambda: copies.metrics()["checkpoint/uploads"] == 1, "copied", 60)
    store.kill()
    copies.submit(run.save(2))
    until(lambda: bool(run.notes), "it cannot be reached", 120)
    assert "update-000000002 cannot be copied elsewhere: s3://bucket/prefix/r: " in run.notes[0]
    store.start()
    until(lambda: copies.metrics()["checkpoint/uploads"] == 2, "copied to the store that is back", 120)
    copies.submit(run.save(3))
    assert copies.finish(60)
    assert [key for key in store.files() if key.endswith("0.json")] == []
    manifests = [key for key in store.files() if key.count("/") == 2]
    assert manifests == [f"prefix/r/{name}" for name in
                         ("owner.json", "update-000000002.json", "update-000000003.json")]  # fmt: skip
    [tensors] = [key for key in store.files() if "000003" in key and key.endswith(".safetensors")]
    store.remove(tensors)
    lines: list[str] = []
    folder = fetch_run(f"{URL}/r", str(tmp_path / "there"), Changes(), lines.append)
    newest = CheckpointStore(folder.checkpoints).load_newest()
    assert newest is not None
    assert newest.update == 2
    assert lines[0] == f"passing over {URL}/r/update-000000003: checkpoint/tensors.safetensors is missing"
