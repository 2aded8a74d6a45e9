"""A folder in an object store, or in any other file system that fsspec knows, by its URL."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from apexpert.errors import ApexpertError, one_line
from deploy.run.config import ConfigError, hide_password

INSTALL = "pip install 'apexpert[cluster]'"
CHUNK_BYTES = 8 * 1024**2
BUCKETS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci")
"""Protocols of stores without folders: to make one could make a bucket."""
PATIENT = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2}}
"""For S3, whose client would otherwise try for many minutes before it says that nothing answers."""


class StorageError(ApexpertError):
    """A place of checkpoints cannot be reached, read or written; the message is one line with its URL."""


class Place:
    """Files below one URL. Every method raises StorageError, in one line, for whatever its library raises.

    Names are relative, with `/` between their parts.
    """

    def __init__(self, url: str) -> None:
        """Open `url`; raise ConfigError when no library here knows it. Nothing is asked over the network."""
        self.url = url.rstrip("/")
        check_url(self.url)
        protocol = self.url.partition("://")[0]
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        try:
            import fsspec
            from fsspec.core import url_to_fs
        except ImportError:
            raise ConfigError(f"{self.url}: needs fsspec: {INSTALL}") from None
        if protocol in ("s3", "s3a") and "config_kwargs" not in fsspec.config.conf.get("s3", {}):
            options["config_kwargs"] = PATIENT
        try:
            self._files, self._root = url_to_fs(self.url, **options)
        except ImportError as error:
            raise ConfigError(f"{self.url}: {one_line(error)}: {INSTALL}") from None
        except Exception as error:
            raise ConfigError(f"{self.url}: {one_line(error)}") from None
        self._makes_folders = protocol not in BUCKETS

    def names(self) -> list[str]:
        """Return the names of files and folders right below; none where there is no such folder."""
        try:
            found = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._error(error) from error
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)

    def read(self, name: str) -> bytes | None:
        """Return a small file's content; None when it is not there."""
        try:
            return bytes(self._files.cat_file(f"{self._root}/{name}"))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._error(error) from error

    def write(self, name: str, chunks: Iterable[bytes]) -> dict[str, Any]:
        """Write a file of `chunks`; return its fingerprint (size and SHA-256), as in a manifest."""
        path, digest, size = f"{self._root}/{name}", hashlib.sha256(), 0
        try:
            if self._makes_folders:
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            with self._files.open(path, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
        except Exception as error:
            raise self._error(error) from error
        return {"bytes": size, "sha256": digest.hexdigest()}

    def fetch(self, name: str, target: Path) -> dict[str, Any] | None:
        """Write a file's content to `target`; return its fingerprint, or None when it is not there.

        Raises OSError when `target` cannot be written.
        """
        digest, size = hashlib.sha256(), 0
        with target.open("wb") as copy:
            for chunk in self._chunks(name):
                if chunk is None:
                    return None
                copy.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        return {"bytes": size, "sha256": digest.hexdigest()}

    def _chunks(self, name: str) -> Iterator[bytes | None]:
        try:
            with self._files.open(f"{self._root}/{name}", "rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except FileNotFoundError:
            yield None
        except Exception as error:
            raise self._error(error) from error

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it; nothing where it is gone."""
        try:
            self._files.rm(f"{self._root}/{name}", recursive=True)
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> StorageError:
        reason = getattr(error, "strerror", None) or one_line(error) or type(error).__name__
        return StorageError(f"{self.url}: {reason}")


def is_url(name: str) -> bool:
    """Whether a RUN on a command line is the URL of an uploaded run."""
    return "://" in name


def check_url(url: str) -> None:
    """Raise ConfigError unless `url` names a folder, without a password in it."""
    protocol, separator, rest = url.partition("://")
    if not (protocol and separator and rest.strip("/")):
        raise ConfigError(f"{url!r}: must be a URL such as s3://BUCKET/FOLDER or file:///FOLDER")
    if hide_password(url) != url:
        raise ConfigError(
            f"{hide_password(url)}: a URL must hold no password; give it by the environment or the files"
            " of the store's own client (docs/checkpoints.md)"
        )
