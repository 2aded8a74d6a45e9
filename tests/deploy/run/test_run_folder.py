"""The run's folder: names, atomic JSON, and the lock."""

import errno
import fcntl
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.run import locks
from deploy.run.config import with_values
from deploy.run.errors import RunBusy, RunError, RunExists, RunNotFound
from deploy.run.folder import RunFolder, list_runs
from deploy.run.presets import LAPTOP


def create(tmp_path: Path, name: str = "") -> RunFolder:
    return RunFolder.create(with_values(LAPTOP, run__runs_dir=str(tmp_path / "runs"), run__name=name))


def test_a_new_folder_has_its_config_and_what_it_was_made_with(tmp_path: Path) -> None:
    folder = create(tmp_path, "first")
    assert folder.path == tmp_path / "runs" / "first"
    assert folder.load_config().run.name == "first"
    assert folder.load_config().learner == LAPTOP.learner
    metadata = folder.read_json("metadata.json", None)
    assert set(metadata) == {"created", "command", "commit", "versions", "hardware"}
    assert metadata["versions"]["torch"] != "missing"
    assert metadata["hardware"]["cores"] >= 1
    for part in (folder.checkpoints, folder.videos, folder.replay, folder.tensorboard):
        assert part.is_dir()


def test_the_folder_of_a_run_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    folder = create(tmp_path, "old")
    document = json.loads(folder.config_path.read_text())
    del document["network"]["values"], document["network"]["num_quantiles"], document["learner"]["loss"]
    folder.write_json("config.json", document | {"network": document["network"] | {"distributional": False}})
    expected = with_values(LAPTOP, network__values="scalar", network__num_quantiles=200)
    config = folder.load_config()
    assert (config.network, config.learner) == (expected.network, expected.learner)


def test_empty_names_are_made_up_and_never_collide(tmp_path: Path) -> None:
    names = [create(tmp_path).name for _ in range(3)]
    assert len(set(names)) == 3
    assert all(name.startswith("laptop-pong-") for name in names)


def test_runs_that_start_in_the_same_second_get_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have found the name free before either has made its folder."""
    monkeypatch.setattr("deploy.run.folder.time.strftime", lambda form: "20260101-000000")
    monkeypatch.setattr(Path, "exists", lambda path: False)
    names = [create(tmp_path).name for _ in range(3)]
    assert names == [f"laptop-pong-20260101-000000{end}" for end in ("", "-2", "-3")]


def test_a_folder_knows_itself_under_another_name_and_from_its_copies(tmp_path: Path) -> None:
    folder = create(tmp_path, "mine")
    own, record = folder.identity, folder.marked({"pid": 1})
    assert own is not None
    assert folder.is_own(record)
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(folder.path, copy.path)
    assert copy.identity is None
    assert not copy.is_own(record)
    copy.settle(copy.drawn_identity())
    assert copy.identity not in (None, own)
    assert not copy.is_own(record)
    moved = RunFolder(folder.path.rename(tmp_path / "moved"))
    assert moved.identity == own
    assert moved.is_own(record)


def test_the_same_inode_on_another_device_is_another_folder_until_the_next_boot(tmp_path: Path) -> None:
    """New file systems give the same numbers, and snapshots keep them."""
    folder = create(tmp_path, "mine")
    own = folder.identity
    assert own is not None
    elsewhere = replace(own, device=own.device + 1)
    folder.write_json("identity.json", elsewhere.document)
    assert folder.identity is None
    folder.write_json("identity.json", replace(elsewhere, boot="before").document)
    assert folder.identity is not None


def test_a_folder_of_before_trusts_no_record_until_it_goes_on(tmp_path: Path) -> None:
    folder = create(tmp_path, "mine")
    (folder.path / "identity.json").unlink()
    assert folder.identity is None
    assert not folder.is_own({"pid": 1})
    assert not folder.is_own(folder.marked({"pid": 1}))
    folder.settle(folder.drawn_identity())
    assert folder.is_own(folder.marked({"pid": 1}))


def test_a_taken_name_says_how_to_go_on(tmp_path: Path) -> None:
    create(tmp_path, "mine")
    with pytest.raises(RunExists, match=r"--name mine: .*apexpert resume mine"):
        create(tmp_path, "mine")


def test_a_folder_that_cannot_be_made_names_the_flag(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunError, match=r"--runs-dir .*runs"):
        create(tmp_path, "x")


@pytest.mark.parametrize("name", ["identity.json", "metadata.json", "config.json"])
def test_a_folder_that_cannot_be_filled_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plain = RunFolder.write_json

    def write(folder: RunFolder, file: str, document: object, **mode: int) -> None:
        if file == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(folder, file, document, **mode)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_json", write)
        with pytest.raises(OSError, match="No space left"):
            create(tmp_path, "mine")
    assert create(tmp_path, "mine").load_config().run.name == "mine"


def test_runs_open_by_name_and_by_path(tmp_path: Path) -> None:
    folder = create(tmp_path, "mine")
    assert RunFolder.open("mine", tmp_path / "runs").path == folder.path
    assert RunFolder.open(str(folder.path), "elsewhere").path == folder.path
    assert [found.name for found in list_runs(tmp_path / "runs")] == ["mine"]
    assert list_runs(tmp_path / "none") == []


@pytest.mark.parametrize("name", ["mina", "zzz", "", ".", "/"])
def test_an_unknown_run_is_one_line_with_those_there_are(tmp_path: Path, name: str) -> None:
    create(tmp_path, "mine")
    with pytest.raises(RunNotFound) as caught:
        RunFolder.open(name, tmp_path / "runs")
    assert "mine" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_config_is_one_line(tmp_path: Path) -> None:
    folder = create(tmp_path, "mine")
    folder.config_path.write_text('{"replay": {"sha')
    with pytest.raises(RunError, match=r"config\.json: cannot be read"):
        folder.load_config()
    folder.config_path.write_text('{"replay": {"shardz": 1}}')
    with pytest.raises(RunError, match="unknown field 'shardz'"):
        folder.load_config()


def test_json_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    folder = create(tmp_path, "mine")
    folder.write_json("state.json", {"a": 1})
    before = (folder.path / "state.json").stat().st_ino
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_json("state.json", {"a": float("nan")})
    assert folder.read_json("state.json", None) == {"a": 1}
    folder.write_json("state.json", {"a": 2})
    assert (folder.path / "state.json").stat().st_ino != before
    assert folder.read_json("state.json", None) == {"a": 2}
    assert folder.read_json("none.json", "default") == "default"
    assert [path.name for path in folder.path.glob(".*")] == []


def test_readers_never_see_half_a_document(tmp_path: Path) -> None:
    folder = create(tmp_path, "mine")
    folder.write_json("state.json", {"text": "x" * 20_000, "n": 0})
    writer = (
        "import sys; from pathlib import Path; from deploy.run.folder import RunFolder\n"
        "folder = RunFolder(Path(sys.argv[1]))\n"
        "for n in range(1, 101): folder.write_json('state.json', {'text': 'x' * 20_000, 'n': n})"
    )
    process = subprocess.Popen([sys.executable, "-c", writer, str(folder.path)])
    seen = set()
    while process.poll() is None:
        document = folder.read_json("state.json", None)
        assert len(document["text"]) == 20_000
        seen.add(document["n"])
    assert process.returncode == 0
    assert len(seen) > 3


def test_only_the_owner_reads_the_config_because_urls_hold_passwords(tmp_path: Path) -> None:
    mode = stat.S_IMODE(os.stat(create(tmp_path, "mine").config_path).st_mode)  # noqa: PTH116
    assert mode == 0o600


def test_a_command_line_with_a_password_is_saved_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["apexpert", "--replay.urls", "redis://u:secret@h:1"])
    folder = create(tmp_path, "mine")
    assert "secret" not in folder.metadata_path.read_text()
    assert json.loads(folder.metadata_path.read_text())["command"][2] == "redis://u:***@h:1"


HOLD = (
    "import sys; from pathlib import Path; from deploy.run.folder import RunFolder\n"
    "with RunFolder(Path(sys.argv[1])).lock():\n"
    "    print('held', flush=True); sys.stdin.read()"
)


def test_the_lock_keeps_others_out_until_its_holder_dies(tmp_path: Path) -> None:
    folder = create(tmp_path, "mine")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(RunBusy, match=r"apexpert status /.*/runs/mine"), folder.lock():
        pass
    holder.kill()
    holder.communicate()
    with folder.lock():
        pass


def test_who_only_looks_at_the_lock_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = create(tmp_path, "mine")
    with (folder.path / "lock").open("a") as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)
        assert not folder.is_supervised(), "two may look at once"
        monkeypatch.setattr(locks, "LOOKED_AT_SECONDS", 60.0)
        unlock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: fcntl.flock(looker, fcntl.LOCK_UN))
        monkeypatch.setattr(locks, "time", unlock)
        with folder.lock():
            assert folder.is_supervised()


def test_the_newest_checkpoint_is_the_one_with_the_most_updates(tmp_path: Path) -> None:
    folder = create(tmp_path, "mine")
    assert folder.newest_checkpoint() is None
    for name in (
        "update-000000900",
        "update-000001000",
        ".tmp-update-000002000",
        "update-000001000.replaced",
    ):
        (folder.checkpoints / name).mkdir()
    newest = folder.newest_checkpoint()
    assert newest is not None
    assert newest.name == "update-000001000"
    newest.rmdir()
    assert folder.newest_checkpoint() == newest.with_name("update-000001000.replaced")


def test_a_name_that_could_be_a_flag_or_several_words_is_told_so_that_it_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("-x", "a b", "$(c)", "r"):
        folder = RunFolder(Path("runs") / name)
        folder.path.mkdir(parents=True)
        folder.config_path.touch()
        (word,) = shlex.split(folder.reference)
        assert not word.startswith("-")
        assert RunFolder.open(word).path == folder.path


def test_a_path_that_is_no_utf8_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"not a path in UTF-8; choose another folder \(--runs-dir\)"):
        create(tmp_path / "\udcff")
    assert list(tmp_path.iterdir()) == []
