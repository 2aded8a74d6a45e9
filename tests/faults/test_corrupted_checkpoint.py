"""A damaged newest checkpoint: `apexpert resume` takes the one before, says so, and goes on to the end.

In a folder that was renamed, whose replay still is its own.
"""

import json
from pathlib import Path

import pytest

from deploy.run.folder import RunFolder
from learner.checkpoint import CheckpointStore
from tests.helpers.runs.catch_runs import metric
from tests.helpers.runs.commands import Trained

NEW_TOTAL = 1_500


def flip_bytes(path: Path) -> None:
    """64 bytes in the middle; the size stays as it was."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        data = file.read(64)
        file.seek(-len(data), 1)
        file.write(bytes(byte ^ 0xFF for byte in data))


@pytest.mark.faults_long
def test_resume_takes_the_checkpoint_before_and_says_so(trained: Trained, tmp_path: Path) -> None:
    terminal = trained.terminal.copy(tmp_path)
    renamed = "renamed"
    folder = RunFolder(terminal.folder.path.rename(terminal.folder.path.with_name(renamed)))
    newest, before = CheckpointStore(folder.checkpoints).paths()[:2]
    at_before = json.loads((before / "document.json").read_text())
    at_end = json.loads((newest / "document.json").read_text())
    assert 0 < at_before["update"] < at_end["update"]
    flip_bytes(newest / "tensors.safetensors")
    already = folder.log_path.read_text()

    done = terminal.run("resume", renamed, "--total-env-steps", str(NEW_TOTAL))
    assert done.returncode == 0, done.stdout + done.stderr
    log = folder.log_path.read_text().removeprefix(already)
    sentence = f"skipping broken checkpoint {newest.name}: tensors.safetensors is not as it was written"
    told = [line for line in log.splitlines() if sentence in line]
    assert told, log
    assert f"{before.name} is used" in told[0], "one sentence names both"
    steps = at_before["env_steps"]
    resuming = f"resuming at {steps:,} env steps with {steps:,} transitions in replay, from {before.name}"
    for text in (log, done.stdout):
        assert sentence in text
        assert resuming in text

    status = folder.read_json("status.json", {})
    assert status["state"] == "finished"
    # What came after the older checkpoint is in the shards: it is counted and learned from, once.
    assert metric(status, "progress/env_steps") >= NEW_TOTAL
    assert metric(status, "replay/size") == metric(status, "progress/env_steps")
    assert metric(status, "replay/missing") == metric(status, "replay/duplicates") == 0
    last = CheckpointStore(folder.checkpoints).load_newest()
    assert last is not None
    assert last.update > at_end["update"]
    assert last.document["env_steps"] == metric(status, "progress/env_steps")
