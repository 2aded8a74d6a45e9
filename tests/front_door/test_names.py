"""What `import apexpert` gives, and what it costs."""

import importlib
import pkgutil
import subprocess
import sys
from importlib import resources

import pytest

import apexpert
from apexpert import ApexpertError
from deploy.run.config import ConfigError
from deploy.run.errors import RunError

PACKAGES = ("apexpert", "models", "replay", "actors", "learner", "deploy")
HEAVY = ("torch", "ray", "redis", "gymnasium", "numpy")


def test_every_name_is_there_and_no_other() -> None:
    for name in apexpert.__all__:
        assert getattr(apexpert, name).__name__ == name
    assert set(apexpert.__all__) <= set(dir(apexpert))
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        apexpert.tarin  # noqa: B018


def test_every_package_says_that_it_is_typed() -> None:
    for name in PACKAGES:
        assert (resources.files(name) / "py.typed").is_file()


def test_importing_it_loads_nothing_heavy() -> None:
    code = f"import sys, apexpert, deploy.cli.main; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def modules() -> list[str]:
    found = []
    for package in map(importlib.import_module, PACKAGES):
        found += [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [name for name in found if not name.endswith("__main__")]


def test_every_error_of_ours_has_the_one_root() -> None:
    errors = set()
    for name in modules():
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == name:
                errors.add(value)
    assert len(errors) > 25
    assert [error for error in errors if not issubclass(error, ApexpertError)] == []


@pytest.mark.parametrize(
    ("message", "flag"),
    [
        ("--replay.n-step 0: must be 1 to 255", "--replay.n-step"),
        ("run 'x' is not there (--runs-dir)", "--runs-dir"),
        ("a--b: nothing of the kind", None),
        ("the disk is full", None),
    ],
)
def test_an_error_knows_the_flag_that_it_names(message: str, flag: str | None) -> None:
    assert ConfigError(message).flag == flag


def test_an_error_knows_its_file() -> None:
    error = RunError("broken", path="/a/b")
    assert (str(error), str(error.path)) == ("broken", "/a/b")
    assert RunError("broken").path is None
