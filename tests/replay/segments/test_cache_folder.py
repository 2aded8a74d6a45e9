"""Where compiled code goes when neither the packages' folder nor the home can be written."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from replay.segments.cache_folder import is_private, is_removed_at_end, private_folder, users_folder
from tests.helpers.runs.homeless import Homeless

WHERE = """
import replay.sampler
from replay.segments.compiled import cache_folder
print(cache_folder())
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder, in which nothing is yet."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("replay.segments.cache_folder._removed_at_end", [])
    private_folder.cache_clear()
    yield tmp_path
    private_folder.cache_clear()


def test_it_is_private_and_stays(temporary: Path) -> None:
    folder = private_folder()
    assert folder == temporary / f"apexpert-cache-{os.geteuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    private_folder.cache_clear()
    assert private_folder() == folder
    assert not is_removed_at_end(folder / "x")


@pytest.mark.parametrize("kind", ["open to others", "a link", "a file", "another user's"])
def test_what_others_could_write_to_is_not_used(temporary: Path, kind: str) -> None:
    taken, elsewhere = temporary / f"apexpert-cache-{os.geteuid()}", temporary / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if kind == "a link":
        taken.symlink_to(elsewhere)
    elif kind == "a file":
        taken.touch(0o600)
    else:
        taken.mkdir(mode=0o700)
    if kind == "open to others":
        taken.chmod(0o777)
    if kind == "another user's":
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder away")
        os.chown(taken, 12345, 12345)
    folder = private_folder()
    assert folder not in (taken, elsewhere)
    assert is_private(folder)
    assert is_removed_at_end(folder / "x")


def test_a_home_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "file").touch()
    homes = {str(tmp_path): tmp_path / ".cache", f"{tmp_path}/file/x": None, "relative": None}
    for home, found in homes.items():
        monkeypatch.setenv("HOME", home)
        assert users_folder("XDG_CACHE_HOME", "~/.cache") == found
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert users_folder("XDG_CACHE_HOME", "~/.cache") == tmp_path / "x"


def test_without_a_home_code_is_compiled_once(homeless: Homeless) -> None:
    """In a process that nobody has prepared, such as one of a Ray cluster or of a user's own script."""
    done = homeless.run("-c", WHERE)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.parent.parent == homeless.temporary
    compiled = {path: path.stat().st_mtime_ns for path in folder.parent.glob("*/*")}
    assert len(compiled) > 10
    assert homeless.run("-c", WHERE, NUMBA_CACHE_DIR="/proc/none", HOME="").stdout == done.stdout
    closed = homeless.temporary.parent / "closed"  # to everybody but root
    closed.mkdir(mode=0o700)
    assert homeless.run("-c", WHERE, HOME=str(closed / "home")).stdout == done.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.parent.glob("*/*")} == compiled
    assert list(homeless.work.iterdir()) == []
