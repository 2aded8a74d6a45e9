"""The image's recipe: lint, what it is built from, and whom it runs as."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.helpers.clusters.manifests import CLUSTERS
from tests.helpers.root import ROOT

DOCKERFILE = CLUSTERS / "docker" / "Dockerfile"


def tool(name: str) -> str:
    """A program of the test environment."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found, f"{name} is not beside {sys.executable}"
    return found


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([tool("hadolint"), DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_built_from_all_that_the_package_needs_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    needed |= {
        "pyproject.toml",
        "constraints.txt",
        project["project"]["readme"],
        *project["project"]["license-files"],
    }
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert needed <= let_in
    assert not let_in & {"runs", "tests", ".git", ".venv"}
    assert all((ROOT / name).exists() for name in let_in)


def test_torch_is_the_pinned_one_and_the_user_is_not_root() -> None:
    text = DOCKERFILE.read_text()
    (version,) = re.findall(r"torch==(\S+)", text)
    assert f"torch=={version}" in (ROOT / "Makefile").read_text()
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["1000:1000"]
    assert 'constraints.txt ".[cluster]"' in text


def test_shellcheck_finds_nothing_in_slurms_script() -> None:
    script = CLUSTERS / "slurm" / "apexpert.sbatch"
    done = subprocess.run([tool("shellcheck"), script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
