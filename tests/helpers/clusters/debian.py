"""Programs that tests need and PyPI does not have: installed by the tests themselves where they may."""

import os
import shutil
import subprocess

import pytest

from tests.helpers.cluster.network import NEEDED

SECONDS = 1200
"""Long: a mirror may be slow."""


def programs(*names: str, packages: str = "") -> None:
    """See that these programs are there, from Debian's `packages` (their own names by default).

    As root they are installed; otherwise the test is skipped, or fails under `make cluster` as root.
    """
    if missing := [name for name in names if shutil.which(name) is None]:
        refusal = _install(packages.split() or list(names))
        if refusal and os.environ.get(NEEDED) and os.geteuid() == 0:
            pytest.fail(refusal)
        if refusal:
            pytest.skip(f"{', '.join(missing)} not found; {refusal}")


def _install(packages: list[str]) -> str:
    """Install packages; why they could not be, empty if they were."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"to install: {' '.join(packages)} (Debian's packages)"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    for words in (["apt-get", "update"], command):
        done = subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=SECONDS, check=False,
        )  # fmt: skip
    return "" if done.returncode == 0 else f"{' '.join(command)}: {done.stderr.strip()[-300:]}"
