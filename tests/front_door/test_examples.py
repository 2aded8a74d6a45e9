"""Every file of examples/ runs, as its first lines say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.deadline import patient
from tests.helpers.root import ROOT
from tests.helpers.runs.commands import Trained
from tests.helpers.runs.rays import without_ray_settings

EXAMPLES = ROOT / "examples"


def run(name: str, *words: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *words], cwd=folder, env=without_ray_settings(),
        capture_output=True, text=True, timeout=patient(240), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_is_a_test_for_each() -> None:
    text = Path(__file__).read_text()
    assert [path.stem for path in EXAMPLES.glob("*.py") if f'run("{path.stem}"' not in text] == []


def test_read_replay(trained: Trained, tmp_path: Path) -> None:
    folder = trained.terminal.copy(tmp_path).folder
    out = run("read_replay", str(folder.path), folder=tmp_path)
    assert "observation (32, 1, 84, 84) uint8" in out
    assert " segments, " in out


@pytest.mark.faults_long
def test_the_notebook(trained: Trained, tmp_path: Path) -> None:
    folder = trained.terminal.copy(tmp_path).folder
    cells = json.loads((EXAMPLES / "look_at_a_run.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert code.count('RUN = "my-run"') == 1
    script = tmp_path / "notebook.py"
    script.write_text(code.replace('"my-run"', repr(str(folder.path))) + '\nplt.savefig("looked.png")\n')
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=without_ray_settings() | {"MPLBACKEND": "agg"},
        capture_output=True, text=True, timeout=patient(120), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert " transitions" in done.stdout
    assert (tmp_path / "looked.png").stat().st_size > 5_000


def test_replay_service(tmp_path: Path) -> None:
    assert "2,000 transitions, " in run("replay_service", "2000", folder=tmp_path)


@pytest.mark.faults_long
def test_own_environment_is_learned(tmp_path: Path) -> None:
    out = run("own_environment", "5600", folder=tmp_path)
    assert "mean return" in out


@pytest.mark.faults_long
def test_own_encoder(tmp_path: Path) -> None:
    assert "finished" in run("own_encoder", "5200", folder=tmp_path)


@pytest.mark.faults_long
def test_train_from_python_and_play_in_gymnasium(tmp_path: Path) -> None:
    out = run("train_from_python", "5200", folder=tmp_path)
    assert "finished after" in out
    assert " parameters" in out
    made = next((tmp_path / "runs").iterdir())
    out = run("play_in_gymnasium", str(made), "50", folder=tmp_path)
    assert "points in 50 steps of 2 games of pong" in out
