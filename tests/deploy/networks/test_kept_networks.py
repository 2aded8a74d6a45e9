"""Networks that a run keeps for good, and the curve of their evaluations."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio.v2 as imageio
import pytest

from deploy.cli.main import main
from deploy.cli.network import evaluate_all as module
from deploy.fleet.processes.learner_process import LearnerProcess
from deploy.networks.model_file import kept_networks, load_model
from deploy.run.checks import check
from deploy.run.config import ConfigError, with_values
from deploy.run.folder import RunFolder
from deploy.run.presets import LAPTOP
from learner.checkpoint import CheckpointStore
from learner.checkpoint_writer import CheckpointWriter, Snapshot
from tests.helpers.runs.network_runs import run_folder


def keep(folder: RunFolder, update: int, every: int = 5) -> None:
    """As the learner's process does after it has written the checkpoint of this update."""
    newest: Any = CheckpointStore(folder.checkpoints).load_newest()
    config = with_values(folder.load_config(), learner__keep_every=every)
    document = newest.document | {"env_steps": 100 * update}
    process: Any = SimpleNamespace(folder=folder, _config=config)
    LearnerProcess._keep_network(process, Snapshot(update, newest.tensors, document))


def test_every_nth_network_is_kept(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, num_experts=2)
    for update in (0, 5, 6, 10, 1_000_000_000):
        keep(folder, update)
    assert [path.name for path in kept_networks(folder)] == [
        f"update-{update:09d}.safetensors" for update in (0, 5, 10, 1_000_000_000)
    ]
    newest: Any = CheckpointStore(folder.checkpoints).load_newest()
    model = load_model(kept_networks(folder)[1])
    assert (model.checkpoint.update, model.checkpoint.document["env_steps"]) == (5, 500)
    assert {name: t.tolist() for name, t in model.checkpoint.tensors.items()} == {
        name: t.tolist() for name, t in newest.tensors.items() if name.startswith("online/")
    }


def test_none_is_kept_unless_asked_for(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, num_experts=2)
    keep(folder, 10, every=0)
    assert not folder.networks.exists()


def test_the_networks_between_checkpoints_cannot_be_kept() -> None:
    check(with_values(LAPTOP, learner__keep_every=10_000))
    with pytest.raises(ConfigError, match=r"^--learner.keep-every 7500: must be a multiple of --learner"):
        check(with_values(LAPTOP, learner__keep_every=7_500))


def test_a_network_that_cannot_be_kept_is_told_and_the_checkpoint_stands(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, num_experts=2)
    store = CheckpointStore(folder.checkpoints)
    newest: Any = store.load_newest()
    kept, notes = [], []

    def saved(snapshot: Snapshot) -> None:
        kept.append(snapshot.update)
        if snapshot.update == 60:
            raise OSError(errno.ENOSPC, "No space left on device")

    writer = CheckpointWriter(store, note=notes.append, saved=saved)
    for update in (60, 61):
        writer.finish(Snapshot(update, newest.tensors, newest.document))
    assert kept == [60, 61]
    assert notes == ["the network of update 60 cannot be kept: No space left on device"]
    assert [path.name for path in store.paths()][:2] == ["update-000000061", "update-000000060"]


def run_all(tmp_path: Path, *more: str) -> int:
    return main(["evaluate", "seen", "--all", "--episodes", "8", "--runs-dir", str(tmp_path), *more])


def test_all_of_them_are_evaluated_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path, num_experts=2)
    for update in (5, 10, 95):
        keep(folder, update)
    assert run_all(tmp_path, "--json", "--seed", "3") == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    # 95 is beyond the newest checkpoint, 56, to which the run has gone back.
    assert [(row["update"], row["env_steps"], row["episodes"]) for row in rows] == [
        (5, 500, 8), (10, 1000, 8), (56, 1234, 8),
    ]  # fmt: skip
    assert {row["seed"] for row in rows} == {3}
    assert [line.split(":")[0].strip() for line in err.splitlines()[1:]] == [f"{n} of 3" for n in (1, 2, 3)]
    assert json.loads((folder.path / "evaluations-seed-3-games-8.json").read_text()) == rows
    assert imageio.imread(folder.path / "evaluations-seed-3-games-8.png").std() > 5


def test_an_evaluation_of_all_that_is_interrupted_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path, num_experts=2)
    keep(folder, 5)
    interrupts = SimpleNamespace(count=0)

    class Interrupted:
        def __enter__(self) -> Any:
            return interrupts

        def __exit__(self, *_: object) -> None:
            pass

    shown = module.shown

    def interrupt(report: Any, name: str) -> str:
        interrupts.count = 1
        return shown(report, name)

    monkeypatch.setattr(module, "Interrupts", Interrupted)
    monkeypatch.setattr(module, "shown", interrupt)
    assert run_all(tmp_path) == 0
    assert [
        row["update"] for row in json.loads((folder.path / "evaluations-seed-1-games-8.json").read_text())
    ] == [5]
    assert "evaluations-seed-1-games-8.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ((), "--all: seen has kept no network: apexpert train --learner.keep-every N does"),
        (("--video",), "--video: is not for --all"),
        (("--best",), "--best: is not for --all"),
        (("--without", "mixture"), "--without: is not for --all"),
    ],
)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], why: str
) -> None:
    run_folder(tmp_path, num_experts=2)
    assert run_all(tmp_path, *more) == 2
    assert capsys.readouterr().err == f"apexpert: {why}\n"
