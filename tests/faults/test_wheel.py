"""The wheel, in a virtual environment of its own outside the tree: the command trains, Python imports it.

That environment lacks the tree and the editable install, but it has every package of the developer's, dev
tools included: torch and Ray alone take a gigabyte. So it cannot show that the wheel asks for all that it
needs: `test_it_asks_for_all_that_it_imports` does. Nothing here shows that the versions resolve.
"""

import ast
import json
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.helpers.deadline import patient
from tests.helpers.root import ROOT
from tests.helpers.runs.rays import without_ray_settings

SHORT = (
    "--total-env-steps", "420", "--name", "r", "--replay.min-size", "300", "--replay.capacity", "2000",
    "--learner.batch-size", "16", "--replay.frame-store-bytes", "100000000",
)  # fmt: skip


PACKAGES = ("apexpert", "models", "replay", "actors", "learner", "deploy")


def run(*words: object, folder: Path) -> str:
    done = subprocess.run(
        list(map(str, words)), cwd=folder, env=without_ray_settings() | {"PYTHONPATH": ""},
        capture_output=True, text=True, timeout=patient(300), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT, folder=folder)
    return next(folder.glob("apexpert-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that environment's programs. Only its dependencies are those of this environment.

    A folder that a .pth file names is searched, but no .pth file in it is read: so the editable install is
    not seen.
    """
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    programs = folder / "bin"
    run(programs / "python", "-m", "pip", "install", "-q", "--no-deps", wheel, folder=folder)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


@pytest.mark.faults_long
def test_it_trains_and_reads_what_it_trained(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "python", "-c", "import deploy; print(deploy.__file__)", folder=tmp_path)
    assert str(installed.parent) in where, "the wheel's, not the tree's"
    out = run(installed / "apexpert", "train", "--game", "Pong", *SHORT, folder=tmp_path)
    assert "run r finished" in out
    code = "import apexpert\nwith apexpert.open_replay('r') as replay: print(replay.sample(4).action.shape)"
    assert run(installed / "python", "-c", code, folder=tmp_path).strip() == "(4,)"
    bands = run(installed / "apexpert", "bands", "--power", "Boxing", "--agent", "rainbow", folder=tmp_path)
    assert "Boxing" in bands, "the published seeds come with it"
    played = run(
        installed / "apexpert", "evaluate", "bundled:pong", "--episodes", "1", "--json", folder=tmp_path
    )
    assert json.loads(played)["episodes"] == 1, "and so does a trained network"


@pytest.mark.faults_long
def test_it_holds_what_the_tree_holds(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", *PACKAGES],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    names = zipfile.ZipFile(wheel).namelist()
    assert set(listed) - set(names) == set()
    assert [name for name in names if name.split("/")[0] in ("tests", "docs", "benchmarks", "examples")] == []


def imported(path: Path) -> set[str]:
    """Return the names of the packages that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).partition(".")[0])
    return names


def normal(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


def test_it_asks_for_all_that_it_imports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {normal(re.split(r"[^\w-]", line)[0]) for line in project["dependencies"]}
    used = set().union(*(imported(path) for name in PACKAGES for path in (ROOT / name).rglob("*.py")))
    others = used - set(PACKAGES) - sys.stdlib_module_names
    from_here = {name: set(map(normal, found)) for name, found in packages_distributions().items()}
    # Imported where a URL asks for it, and its absence is told in a line.
    optional = {"fsspec"}
    assert {name for name in others - optional if not asked & from_here.get(name, set())} == set()
    assert any(line.startswith("fsspec") for line in project["optional-dependencies"]["cluster"])
