"""Commands of a user without a home, and without leave to write where the packages are installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers.deadline import patient
from tests.helpers.root import ROOT

PACKAGES = ("apexpert", "models", "replay", "actors", "learner", "deploy")
USER = 12345
"""A user that no list of users knows."""


class Homeless:
    """The packages in a copy that nobody may write to, and a folder `work` to run commands in.

    As root, commands run as a user without a name, which is let read everything (the interpreter may be in
    root's home) and write nothing that is not its own. Else they run as the user who tests.
    """

    def __init__(self, path: Path) -> None:
        self.work, self.temporary, self._packages = path / "work", path / "tmp", path / "packages"
        for name in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, self._packages / name, ignore=ignored)
        for folder in (self.work, self.temporary):
            folder.mkdir()
            if os.geteuid() == 0:
                os.chown(folder, USER, USER)
        for folder in (self._packages, *self._packages.rglob("*")):
            folder.chmod(folder.stat().st_mode & 0o555)

    def run(self, *words: str, seconds: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        """`python *words` to its end; an empty value in `environment` is a variable that is not set."""
        variables = {
            "PATH": os.defpath,
            "HOME": "/nonexistent",
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(self._packages),
            **environment,
        }
        return subprocess.run(
            [*_as_nobody(), sys.executable, "-P", *words],
            cwd=self.work,
            env={name: value for name, value in variables.items() if value},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patient(seconds),
            check=False,
        )


def _as_nobody() -> list[str]:
    if os.geteuid() != 0:
        return []
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *reading]
