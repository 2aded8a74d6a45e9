"""A command that is slow to let go of the run's own Ray is not ended by that Ray's end."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.deadline import patient
from tests.helpers.root import ROOT
from tests.helpers.runs.rays import without_ray_settings

CODE = """
import sys, time
from pathlib import Path
from deploy.fleet import launch
from deploy.fleet.client import RunClient
from deploy.run.folder import RunFolder
from tests.helpers.runs.catch_runs import catch_config

let_go = RunClient._let_go

def late(client):  # as on a machine whose cores others use
    time.sleep(3.0)
    print("Ray lives:", client._local.alive)
    let_go(client)

RunClient._let_go = late
config = catch_config(Path(sys.argv[1]), run__total_env_steps=700)
folder = RunFolder.create(config)
client = launch(folder.load_config(), folder, resume=False)
print(client.wait_finished(float(sys.argv[2]))["state"], flush=True)
RunClient._let_go = let_go
client.shutdown()
print("and the command", flush=True)
"""


@pytest.mark.faults_long
def test_a_command_that_is_slow_to_let_go_lives_and_says_how_it_ended(tmp_path: Path) -> None:
    """Its Ray ends after it, not before: seen under load, a process that was still connected ended with it,
    without a word and with another exit code."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), str(patient(120))], cwd=ROOT, env=without_ray_settings(),
        capture_output=True, text=True, check=False, timeout=patient(200),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "Ray lives: True\nfinished\nand the command\n"), done.stderr
