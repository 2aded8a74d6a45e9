"""`apexpert replay` on finished and live runs and on servers of the user's own; real servers throughout."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from deploy.cli.main import main
from deploy.run.folder import RunFolder
from learner.checkpoint import CheckpointStore, with_prefix
from replay.servers.embedded import EmbeddedServers
from replay.shards.shard import Shard
from replay.tools.inventory import checkpoint_masses
from replay.types import SegmentIdentity, Signature
from tests.helpers.replay.samplers import Run, ingest_all
from tests.helpers.replay.streams import random_stream
from tests.helpers.runs.catch_runs import catch_config
from tests.helpers.runs.processes import is_alive
from tests.helpers.shards.servers import fresh_run, shared_urls

SIGNATURE = Signature(frame_shape=(84, 84), stack=1, n_step=3, num_actions=4)
SHARDS = 2
CAPTION = (
    r"(?P<action>.*), return (?P<reward>.*) in \d(?P<end>, the end)?\n"
    r"priority (?P<priority>.*), P .*\n"
    r"segment (?P<identity>.*), step (?P<step>.*), weights (?P<version>.*)"
)


def servers_of(folder: RunFolder) -> EmbeddedServers:
    return EmbeddedServers(folder.replay, shards=SHARDS, append_fsync="everysec", maxmemory=2**27)


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


def call(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main(["replay", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def look(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    code, out, err = call(capsys, *argv, "--json")
    assert code == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def test_a_finished_run(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.time()
    document = look(capsys, folder.path)
    ended = time.time()
    assert (document["run"], document["live"], document["items"]) == ("r", False, 150)
    assert document["segments"] == sum(row["segments"] for row in document["shards"])
    assert [row["items"] for row in document["shards"]] == [100, 50]
    assert document["bytes"] / 150 == document["bytes_per_step"] < document["server_bytes_per_step"]
    assert document["log"] == {"duplicates": 0, "missing": 0, "unreadable": 0}
    assert 0 <= document["age_seconds"]["newest"] <= document["age_seconds"]["oldest"] < 600
    priorities = document["priorities"]
    assert (priorities["checkpoint"], priorities["items"]) == ("update-000000007", 100)
    assert priorities["items_since"] == 50
    assert (priorities["update"], priorities["env_steps"]) == (7, 100)
    written = (folder.checkpoints / "update-000000007" / "manifest.json").stat().st_mtime
    # To the second before and after: a file's time has its clock's resolution.
    assert began - written - 1 < priorities["age_seconds"] < ended - written + 1
    assert sum(priorities["counts"]) == 100
    assert 1 < priorities["effective_sample_size"] < 100
    assert document["counters"]["replay/inserted"] == 100
    assert document["counters"]["replay/sampled"] == 32
    assert "password" not in json.dumps(document)
    with folder.lock():  # nobody holds it any more, and nothing runs
        pass
    assert not any(is_alive(pid) for pid in folder.read_json("replay/state.json", {})["pids"] if pid)


def test_tables_for_people(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.write_json("status.json", {"state": "stopped", "time": 0, "metrics": {"replay/evicted": 12345.0}})
    code, out, _ = call(capsys, folder.path)
    assert code == 0
    for text in ("150 items", "effective sample size", "update-000000007", "12,345", "nobody is at work"):
        assert text in out
    assert any(bar in out for bar in "▁▂▃▄▅▆▇█")
    os.utime(folder.checkpoints / "update-000000007" / "manifest.json", (0, time.time() - 200))
    out = " ".join(call(capsys, folder.path)[1].split())
    assert "update-000000007, at update 7 and 100 env steps, written 3.3 min ago" in out
    assert "the learner's are newer" not in out


def test_a_live_run_is_looked_at_and_nothing_else(
    folder: RunFolder, live: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = look(capsys, folder.path)
    assert document["live"]
    assert document["items"] == 150
    out = " ".join(call(capsys, folder.path)[1].split())
    assert "ago; the learner's are newer" in out
    assert call(capsys, folder.path, "--verify")[0] == 0
    assert call(capsys, folder.path, "--export", tmp_path / "out")[0] == 0
    code, _, err = call(capsys, folder.path, "--delete", "--yes")
    assert code == 2
    assert "--delete: r is live" in err
    code, _, err = call(capsys, folder.path, "--import", tmp_path / "out")
    assert code == 2
    assert "--import: r is live" in err
    assert look(capsys, folder.path)["items"] == 150
    assert folder.read_json("replay/state.json", {})["pids"] == live
    shutil.rmtree(folder.checkpoints)
    out = " ".join(call(capsys, folder.path)[1].split())
    assert "there is no checkpoint here, and Redis does not hold them" in out


def test_verify_counts_what_is_wrong(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, folder.path, "--verify")
    assert code == 0
    assert "150 items" in out
    with servers_of(folder) as servers:
        shard = Shard(servers.urls[0], run="r", index=0)
        first, second = (entry.identity for entry in shard.read_log("0-0", 2))
        assert first is not None
        assert second is not None
        whole = shard.fetch([first])[0]
        assert whole is not None
        shard.writing.commit(first, whole[:-3] + b"abc", 1, 1)
        shard.owning.unlink([second])
    code, out, err = call(capsys, folder.path, "--verify")
    assert code == 1
    assert "2 things are wrong" in err
    document = json.loads(call(capsys, folder.path, "--verify", "--json")[1])
    assert {kind: count for kind, count in document["wrong"].items() if count} == {"corrupt": 1, "missing": 1}
    assert document["duplicates"] == 1


def test_frames_are_a_picture_of_the_transitions_drawn(
    folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each picture and each word under it, against the brute force's item of what was written."""
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda *args, **kw: (figures.append(args[0]), save(*args, **kw)))
    target = tmp_path / "sheet.png"
    code, out, err = call(capsys, folder.path, "--frames", target, "--num-frames", 40)
    assert code == 0, err
    assert str(target) in out
    height, width, _ = matplotlib.image.imread(target).shape
    assert height > 300
    assert width > 1000
    (figure,) = figures
    assert "40 of 150 transitions, priorities of update-000000007" in figure.get_suptitle()
    written = Run([], SIGNATURE, folder.load_config().replay, name="r")
    for actor in range(3):
        written.record(random_stream(actor, 50, frame_shape=SIGNATURE.frame_shape), actor=actor)
    checkpoint = CheckpointStore(folder.checkpoints).load_newest()
    assert checkpoint is not None
    known = checkpoint_masses(checkpoint.arrays("sampler"))
    newest, seen = checkpoint.document["sampler"]["table"]["max_mass"], set()
    for axes in figure.axes:
        words = re.fullmatch(CAPTION, axes.get_title(loc="left"))
        assert words is not None
        identity = SegmentIdentity.parse(words["identity"])
        place = int(words["step"].replace(",", "")) - written.segments[identity].first_step
        item = written.items[identity][place]
        frames = np.asarray(axes.images[0].get_array())
        assert np.array_equal(frames[:, :84], item.observation[0])
        assert np.array_equal(frames[:, -84:], item.next_observation[-1])
        assert words["action"] == f"action {item.action}"
        assert words["reward"] == f"{item.reward:+.3f}"
        assert bool(words["end"]) == (item.discount == 0)
        mass = known[identity][place] if identity in known else newest
        assert words["priority"] == f"{mass:.3g}"
        assert words["version"] == str(written.segments[identity].weights_version)
        seen.add((identity, place))
    assert len(seen) > 20, "they are different ones"


def test_delete_asks_first(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = call(capsys, folder.path, "--delete")
    assert code == 2
    assert "--yes deletes without asking" in err
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    assert call(capsys, folder.path, "--delete")[0] == 1
    assert "Delete all of the replay of r" in asked[0]
    assert look(capsys, folder.path)["items"] == 150
    code, out, _ = call(capsys, folder.path, "--delete", "--yes")
    assert code == 0
    assert "keys deleted from 2 shards" in out
    code, _, err = call(capsys, folder.path)
    assert code == 2
    assert "nothing is stored under that name" in err


def test_it_moves_to_a_new_run_and_to_servers_of_the_users(
    folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, out = folder.path.parent, tmp_path / "out"
    assert call(capsys, folder.path, "--export", out)[0] == 0
    assert call(capsys, "moved", "--runs-dir", runs, "--import", out)[0] == 0
    before, after = look(capsys, folder.path), look(capsys, "moved", "--runs-dir", runs)
    ages = [document["priorities"].pop("age_seconds") for document in (before, after)]
    assert 0 < ages[0] < ages[1], "as old as it was"
    for name in ("items", "segments", "priorities", "weights_version", "log"):
        assert before[name] == after[name]
    assert call(capsys, "moved", "--runs-dir", runs, "--verify")[0] == 0
    fleet = RunFolder(runs / "moved").read_json("fleet.json", {})
    assert fleet["next_incarnation"] == {"0": 4, "1": 1, "2": 1}

    name, urls = fresh_run(), shared_urls()[:SHARDS]
    given = ("--runs-dir", runs, "--import", out, "--replay.urls", *urls)
    assert call(capsys, name, *given)[0] == 0
    assert RunFolder(runs / name).load_config().replay.urls == tuple(urls)
    assert look(capsys, name, "--runs-dir", runs)["items"] == 150
    code, _, err = call(capsys, name, *given)
    assert code == 2
    assert "holds data of run" in err
    # Only its name in Redis, as from another machine.
    monkeypatch.setenv("APEXPERT_REDIS_URLS", " ".join(urls))
    elsewhere = look(capsys, name, "--runs-dir", tmp_path / "none")
    assert elsewhere["items"] == 150
    assert elsewhere["priorities"] is None
    assert call(capsys, name, "--runs-dir", tmp_path / "none", "--frames", tmp_path / "s.png")[0] == 0
    assert call(capsys, name, "--runs-dir", runs, "--delete", "--yes")[0] == 0


def test_the_readmes_batches_from_python(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(folder.path.parent.parent)
    names: dict[str, Any] = {}
    exec(code.replace("my-run", "r"), names)  # it is our own
    assert capsys.readouterr().out.startswith("(32, 1, 84, 84) [")
    assert names["sampler"].size == 150
    assert names["batch"].probability.min() > 0


def test_two_runs_on_the_same_servers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    urls = shared_urls()[:SHARDS]
    config = catch_config(tmp_path, replay__min_size=32).replay
    one, other = (Run(urls, SIGNATURE, config) for _ in range(2))
    one.fill(0, 30, actor=0)
    other.fill(1, 40, actor=0)
    for run in (one, other):
        for shard in run.shards:
            shard.check_meta(SIGNATURE)
    given = ("--runs-dir", tmp_path, "--replay.urls", *urls)
    assert [row["items"] for row in look(capsys, one.name, *given)["shards"]] == [30, 0]
    assert [row["items"] for row in look(capsys, other.name, *given)["shards"]] == [0, 40]
    assert call(capsys, one.name, *given, "--delete", "--yes")[0] == 0
    assert look(capsys, other.name, *given)["items"] == 40
    assert call(capsys, other.name, *given, "--verify")[0] == 0
    assert call(capsys, one.name, *given)[0] == 2


def test_a_run_that_is_only_known_by_its_name_is_not_deleted_while_its_owner_works(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Nothing has to move in its shards for that: it may be waiting, or slow."""
    urls = shared_urls()[:SHARDS]
    run = Run(urls, SIGNATURE, catch_config(tmp_path, replay__min_size=32).replay)
    run.fill(0, 30, actor=0)
    for shard in run.shards:
        shard.check_meta(SIGNATURE)
    given = (run.name, "--runs-dir", tmp_path, "--replay.urls", *urls)
    sampler = run.sampler()
    ingest_all(sampler)
    assert look(capsys, *given)["live"]
    assert call(capsys, *given, "--verify")[0] == 0
    code, _, err = call(capsys, *given, "--delete", "--yes")
    assert code == 2
    assert "is live: its learner gave a sign of life in the last 5 minutes" in err
    assert err.count("\n") == 1
    sampler.close()
    assert not look(capsys, *given)["live"]
    assert call(capsys, *given, "--delete", "--yes")[0] == 0


MISTAKES = [
    (["nope"], "no run 'nope'"),
    (["nope", "--delete", "--yes"], "no run 'nope'"),
    (["nope", "--import", "nowhere"], "nowhere is not an exported replay"),
    (["r", "--verify", "--delete"], "--verify and --delete: give one of them"),
    (["r", "--export", "x", "--import", "y"], "--export and --import: give one of them"),
    (["r", "--yes"], "--yes: goes with --delete only"),
    (["r", "--frames", "sheet.jpg"], "--frames sheet.jpg: must end in .png"),
    (["r", "--frames", "no/such/folder/sheet.png"], "there is no folder no/such/folder"),
    (["r", "--frames", "folder.png"], "--frames: folder.png: Is a directory"),
    (["r", "--frames", "s.png", "--num-frames", "0"], "--num-frames 0: must be 1 or more"),
    (["r", "--export", "."], "--export .: . is there already"),
    (["r", "--shards", "2"], "--shards: unknown flag"),
    (["fresh"], "fresh has no replay"),
]


@pytest.mark.parametrize(("argv", "message"), MISTAKES)
def test_mistakes_are_one_line(
    made: RunFolder,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").touch()
    (tmp_path / "folder.png").mkdir()
    runs = made.path.parent
    if not (runs / "fresh").exists():
        RunFolder.create(catch_config(runs, run__name="fresh"))
    code, out, err = call(capsys, *argv, "--runs-dir", runs)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not out
