"""`apexpert replay` looks at finished and live runs: tables, JSON, verification, frames; real servers."""

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from deploy.run.folder import RunFolder
from learner.checkpoint import CheckpointStore
from replay.shards.shard import Shard
from replay.tools.inventory import checkpoint_masses
from replay.types import SegmentIdentity
from tests.helpers.replay.samplers import Run
from tests.helpers.replay.streams import random_stream
from tests.helpers.root import ROOT
from tests.helpers.runs.processes import is_alive
from tests.helpers.runs.replay_command import SIGNATURE, call, look, servers_of
from tests.helpers.shards.commands import unlink

CAPTION = (
    r"(?P<action>.*), return (?P<reward>.*) in \d(?P<end>, the end)?\n"
    r"mass (?P<mass>.*), P .*\n"
    r"segment (?P<identity>.*), step (?P<step>.*), weights (?P<version>.*)"
)


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
    masses = document["masses"]
    assert (masses["checkpoint"], masses["items"]) == ("update-000000007", 100)
    assert masses["items_since"] == 50
    assert (masses["update"], masses["env_steps"]) == (7, 100)
    written = (folder.checkpoints / "update-000000007" / "manifest.json").stat().st_mtime
    # To the second before and after: a file's time has its clock's resolution.
    assert began - written - 1 < masses["age_seconds"] < ended - written + 1
    assert sum(masses["counts"]) == 100
    assert 1 < masses["effective_sample_size"] < 100
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
        unlink(shard, [second])
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
    assert "40 of 150 transitions, masses of update-000000007" in figure.get_suptitle()
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
        assert words["mass"] == f"{mass:.3g}"
        assert words["version"] == str(written.segments[identity].weights_version)
        seen.add((identity, place))
    assert len(seen) > 20, "they are different ones"


def test_the_readmes_batches_from_python(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(folder.path.parent.parent)
    names: dict[str, Any] = {}
    exec(code.replace("my-run", "r"), names)  # it is our own
    assert capsys.readouterr().out.startswith("(32, 1, 84, 84) [")
    assert names["replay"].size == 150
    assert names["batch"].probability.min() > 0
