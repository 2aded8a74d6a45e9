"""An object store of S3's kind in a process of its own (moto), which can be killed and come back empty."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers.deadline import until
from tests.helpers.shards.tls import a_free_port

BUCKET = "bucket"


class ObjectStore:
    """A server on a port of its own; `environment` is what its clients need."""

    def __init__(self, log: Path) -> None:
        self._log, self._port = log, a_free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Start it, empty but for the bucket."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self._has_bucket, "the object store answers", 120)

    def kill(self) -> None:
        """End it at once; what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def files(self) -> list[str]:
        """The keys of all objects in the bucket."""
        return sorted(entry.key for entry in self._bucket().objects.all())

    def remove(self, key: str) -> None:
        self._bucket().Object(key).delete()

    def _bucket(self) -> Any:
        import boto3

        store = boto3.resource(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        return store.Bucket(BUCKET)

    def _has_bucket(self) -> bool:
        from botocore.exceptions import BotoCoreError

        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        with contextlib.suppress(BotoCoreError):
            self._bucket().create()
            return True
        return False


@contextlib.contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """Yield a store that is up, and end it."""
    store = ObjectStore(folder / "object-store.txt")
    try:
        store.start()
        yield store
    finally:
        store.kill()


@contextlib.contextmanager
def as_environment(store: ObjectStore) -> Iterator[None]:
    """While entered, clients of this process find the store."""
    before = dict(os.environ)
    os.environ.update(store.environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
