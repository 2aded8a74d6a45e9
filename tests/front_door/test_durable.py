"""Files are replaced whole, for their reader only where asked, and are on disk before they count."""

import os
from pathlib import Path

import pytest

from apexpert import durable


def test_a_replaced_file_is_old_or_new_and_never_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "status.json"
    durable.replace(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        durable.replace(path, b"new, and longer")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_synced_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def record_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    durable.replace(tmp_path / "a", b"1")
    temporary, *rest = events
    assert temporary.startswith(durable.TEMPORARY)
    assert rest == ["rename", tmp_path.name]
    events.clear()
    durable.replace(tmp_path / "a", b"2", synced=False)
    assert events == ["rename"]
    assert (tmp_path / "a").read_bytes() == b"2"


def test_a_private_file_is_private_from_the_start(tmp_path: Path) -> None:
    for synced in (True, False):
        durable.replace(tmp_path / "password", b"secret", 0o600, synced=synced)
        assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600


def test_parts_are_written_one_after_the_other(tmp_path: Path) -> None:
    durable.write(tmp_path / "log", (part for part in (b"ab", b"", b"c")))
    assert (tmp_path / "log").read_bytes() == b"abc"
    assert durable.fingerprint(tmp_path / "log") == {
        "bytes": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",  # FIPS 180-2, "abc"
    }
