"""Folders copied by hard links: what is written into the copy never goes into the original."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from replay.errors import ServerError
from replay.servers.embedded import EmbeddedServers
from replay.servers.folder_lock import lock_folder
from replay.servers.hard_links import unshare
from replay.shards.shard import Shard
from tests.helpers.shards.servers import fresh_run


def copy_by_links(folder: Path, copy: Path) -> Path:
    """As `cp -al` does it."""
    return Path(shutil.copytree(folder, copy, copy_function=os.link))


def test_a_file_with_another_name_is_replaced_by_a_copy(tmp_path: Path) -> None:
    original, copy, alone = (tmp_path / name for name in ("original", "copy", "alone"))
    original.write_bytes(b"kept")
    original.chmod(0o640)
    copy.hardlink_to(original)
    alone.touch()
    before = alone.stat().st_ino
    unshare([copy, alone, tmp_path, tmp_path / "none"])
    assert copy.read_bytes() == b"kept"
    assert not copy.samefile(original)
    status = copy.stat()
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o640, original.stat().st_mtime_ns)
    assert alone.stat().st_ino == before
    assert len(list(tmp_path.iterdir())) == 3


def test_without_room_a_file_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.write_bytes(b"kept")
    copy.hardlink_to(original)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", refuse)
    with pytest.raises(OSError, match="No space left"):
        unshare([copy])
    assert copy.samefile(original)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_lock_of_its_own_is_taken_once_the_shared_one_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay.servers.folder_lock.WAIT_FOR_ALIVE_S", 0.0)
    original = tmp_path / "original"
    original.mkdir()
    held = lock_folder(original / "lock")
    copy = copy_by_links(original, tmp_path / "copy")
    with pytest.raises(ServerError, match="is in use by the servers"):
        lock_folder(copy / "lock")
    os.close(held)
    both = [lock_folder(folder / "lock") for folder in (copy, original)]
    for descriptor, folder in zip(both, (copy, original), strict=True):
        assert os.fstat(descriptor).st_ino == (folder / "lock").stat().st_ino
        os.close(descriptor)


def test_servers_on_a_copy_leave_the_originals_data_alone(tmp_path: Path) -> None:
    def servers(folder: Path) -> EmbeddedServers:
        return EmbeddedServers(folder, shards=1, append_fsync="everysec", maxmemory=2**26)

    run, original = fresh_run(), tmp_path / "original"
    with servers(original) as up:
        assert Shard(up.urls[0], run=run, index=0).administration.claim("original")
    copy = copy_by_links(original, tmp_path / "copy")
    with servers(copy) as up:
        shard = Shard(up.urls[0], run=run, index=0)
        assert shard.administration.folder_id() == "original"
        shard.administration.unclaim()
        with servers(original) as others:
            assert Shard(others.urls[0], run=run, index=0).administration.folder_id() == "original", (
                "both can be up"
            )
