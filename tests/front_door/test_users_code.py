"""Folders of the user's own with the names of our packages: one line says which hides which."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy
import pytest

from apexpert.users_code import PACKAGES, ROOT, explained
from deploy.cli.main import main

SCRIPT = "import apexpert\napexpert.preset('laptop')\n"


@pytest.mark.parametrize("name", PACKAGES[1:])
def test_a_script_beside_a_folder_of_that_name_is_told_which_hides_which(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    line = f"{tmp_path / name} hides the package '{name}' of Apexpert in {ROOT}: give yours another name"
    assert done.stderr.splitlines()[-1].endswith(f"HiddenPackage: {line}")


def test_the_command_runs_with_folders_of_all_those_names_before_ours(tmp_path: Path) -> None:
    for name in PACKAGES[1:]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    # As the installed script does, which searches PYTHONPATH and not the current folder.
    module, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"][
        "apexpert"
    ].split(":")
    script = f"import sys\nfrom {module} import {function}\nsys.exit({function}())"
    for words in (["-P", "-c", script], ["-m", "apexpert"]):
        done = subprocess.run(
            [sys.executable, *words, "list"],
            cwd=tmp_path,
            env={"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "no runs under runs\n", "")


def test_a_folder_without_modules_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=environment, check=True)


@pytest.mark.parametrize("statement", ["import models.mine", "from models import mine"])
def test_a_package_of_ours_that_hides_a_folder_of_the_users_is_named(
    statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    with pytest.raises(ImportError) as caught:
        exec(statement)
    hint = f"; the package 'models' of Apexpert hides {tmp_path}/models: give yours another name"
    assert explained(caught.value).endswith(hint)


def test_an_encoder_in_a_folder_that_a_package_of_ours_hides_is_told_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert main(["train", "--encoder", "models.mine:make"]) == 2
    hint = f"the package 'models' of Apexpert hides {tmp_path}/models: give yours another name"
    line = capsys.readouterr().err
    assert line.startswith("apexpert: --encoder 'models.mine:make' cannot be made: ModuleNotFoundError: ")
    assert line.endswith(f"; {hint}\n")


ENCODER = """
from torch import nn

class Encoder(nn.Module):
    def forward(self, image):
        raise RuntimeError("no pass")

def make(config, in_channels):
    return Encoder()
"""


def test_an_encoder_that_raises_in_its_forward_pass_is_told_with_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "users_forward.py"
    file.write_text(ENCODER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert main(["train", "--encoder", "users_forward:make"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("apexpert: --encoder 'users_forward:make' fails on inputs of ")
    assert line.endswith(f": RuntimeError: no pass ({file}, line 6)\n")


def test_a_module_that_is_nowhere_is_hidden_by_nothing() -> None:
    with pytest.raises(ImportError) as caught:
        exec("import no_such_module")
    assert "hides" not in explained(caught.value)


def test_the_source_of_a_compiled_library_is_no_file_of_the_users() -> None:
    with pytest.raises(ValueError, match="non-negative") as caught:
        numpy.random.default_rng(-1)
    assert explained(caught.value).endswith(f"({__file__}, line {caught.tb.tb_lineno})")
