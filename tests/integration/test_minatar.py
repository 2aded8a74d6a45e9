"""A small run on MinAtar from start to end, and what a user does with it afterwards."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import pytest

import apexpert
from deploy.cli.main import main
from deploy.fleet import RunClient
from deploy.run.config import leaves
from deploy.run.folder import RunFolder
from deploy.run.presets import PRESETS
from learner.checkpoint import CheckpointStore
from tests.helpers.deadline import PATIENCE, patient
from tests.helpers.runs.catch_runs import metric

SMALL: dict[str, Any] = {
    "network__head": "soft_moe", "network__num_experts": 2, "network__expert_hidden_units": 8,
    "environment__stack": 2, "replay__min_size": 100, "replay__capacity": 2_000, "replay__segment_steps": 8,
    "replay__shard_memory_bytes": 2**27, "run__total_env_steps": 400, "learner__update_period": 4,
    "learner__checkpoint_period": 50, "learner__diagnostics_period": 0, "learner__cpus": 1,
    "learner__device": "cpu", "evaluation__episodes": 2,
}  # fmt: skip


@pytest.mark.skipif(
    importlib.util.find_spec("minatar") is None, reason="MinAtar is missing: pip install minatar"
)
@pytest.mark.timeout(300 * PATIENCE)
def test_a_run_learns_is_evaluated_played_and_shown(
    start_run: Callable[..., tuple[RunClient, RunFolder]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = {path.replace(".", "__"): value for path, value in leaves(PRESETS["minatar-dqn"]).items()}
    # Where it runs and is stored is the fixture's to say.
    del preset["run__runs_dir"], preset["run__ray_address"]
    client, folder = start_run(**(preset | SMALL))
    status = client.wait_finished(patient(120))
    assert (status["state"], status["message"]) == ("finished", "")
    assert metric(status, "progress/updates") > 50
    checkpoint = CheckpointStore(folder.checkpoints).load_newest()
    assert checkpoint is not None
    assert checkpoint.document["observation_shape"] == [8, 10, 10], "two frames of four planes"
    where = ["--runs-dir", str(folder.path.parent)]
    with apexpert.open_replay(folder.name, runs_dir=where[1]) as replay:
        batch = replay.sample(16)
    assert batch.observation.shape == (16, 8, 10, 10)
    assert set(batch.observation.ravel().tolist()) == {0, 255}
    capsys.readouterr()
    assert main(["evaluate", folder.name, *where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 2
    video = tmp_path / "game.mp4"
    assert main(["play", folder.name, *where, "--output", str(video)]) == 0
    with imageio.get_reader(video) as film:
        assert film.get_meta_data()["size"] == (320, 360), "a caption above the game"
    assert main(["show", folder.name, *where, "--steps", "5", "--output", str(tmp_path)]) == 0
    assert main(["replay", folder.name, *where, "--frames", str(tmp_path / "sheet.png")]) == 0
    assert {".png", ".mp4"} <= {path.suffix for path in tmp_path.glob("experts-*")}
