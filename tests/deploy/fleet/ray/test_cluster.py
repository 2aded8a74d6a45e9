import contextlib
import errno
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

import models
from deploy.fleet.ray import cluster, keeper
from deploy.fleet.ray.cluster import LocalRay
from deploy.run.import_path import ROOT
from tests.helpers.deadline import patient, until
from tests.helpers.runs.processes import is_alive

CONNECT = """
import json, os, sys
import ray
from deploy.fleet.ray import cluster
local = cluster.LocalRay.parse(json.loads(sys.argv[1]))
cluster.connect(local.address, local)
print(json.dumps([ray.cluster_resources()["CPU"], os.environ["RAY_AUTH_MODE"]]))
"""

FROM_THE_USERS_FOLDER = """
import json, os, sys
import ray
from deploy.run import import_path
from deploy.fleet.ray import cluster
from deploy.fleet.processes.role import Assignment, Role

class Probe(Role):
    def look(self):
        import models, select, users_environment
        from deploy.run.folder import RunFolder
        files = models.__file__, select.__file__, sys.modules["deploy"].__file__
        return *files, users_environment.make(3), os.nice(0)

local = cluster.LocalRay.parse(json.loads(sys.argv[1]))
cluster.connect(local.address, local)
from deploy.run.presets import LAPTOP
assignment = Assignment(LAPTOP, sys.argv[2], (), None, import_path.users_folders())
probe = ray.remote(num_cpus=0)(Probe).remote(assignment, "probe", patience=1.0)
print(json.dumps(ray.get(probe.look.remote())))
"""

START = """
import dataclasses, json, signal
from deploy.fleet.ray import cluster
print(json.dumps(dataclasses.asdict(cluster.start_local())), flush=True)
signal.pause()
"""


TERMINATED = """
import json, os, signal, sys
from deploy.fleet.ray import cluster
signal.signal(signal.SIGTERM, lambda *_: print("mine", flush=True))
local = cluster.LocalRay.parse(json.loads(sys.argv[1]))
cluster.connect(local.address, local)
os.kill(os.getpid(), signal.SIGTERM)
print("goes on")
"""

AS_RAY = """
import os, signal, sys
from pathlib import Path
folder, ending, seen = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(Path(seen).write_text(str(Path(folder, ending).exists()))))
Path(folder, "up").touch()
while True:
    signal.pause()
"""


def processes(local: LocalRay) -> list[psutil.Process]:
    """The keeper and everything below it."""
    keeper = psutil.Process(local.pid)
    return [keeper, *keeper.children(recursive=True)]


def wait_gone(those: list[psutil.Process]) -> None:
    until(lambda: not any(map(is_alive, those)), "Ray's end", 20)


NOT_OURS = "raise ImportError('this is not the one that was meant')\n"


@pytest.fixture(scope="module")
def shadows(tmp_path_factory):
    """A folder of PYTHONPATH with packages that are named like ours."""
    folder = tmp_path_factory.mktemp("shadows")
    for name in ("models", "replay"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(NOT_OURS)
    return folder


@pytest.fixture(scope="module")
def users_folder(tmp_path_factory):
    """A folder with an environment of the user's, and modules that are named like ours and like Python's."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "users_environment.py").write_text("def make(num_envs):\n    return num_envs + 4\n")
    for name in ("models", "deploy", "select"):
        (folder / f"{name}.py").write_text(NOT_OURS)
    return folder


@pytest.fixture(scope="module")
def local(users_folder, shadows):
    """A Ray that was started in the user's folder and with a PYTHONPATH."""
    with contextlib.chdir(users_folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(shadows))
        started = cluster.start_local(num_cpus=33)
    yield started
    started.end()


def run(code: str, local: LocalRay, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", code, json.dumps(vars(local)), *arguments],
        env=os.environ | environment, capture_output=True, text=True, timeout=patient(60), check=False,
    )  # fmt: skip


def test_any_process_of_the_user_can_connect(local):
    answered = run(CONNECT, local)
    assert answered.returncode == 0, answered.stderr
    assert json.loads(answered.stdout.splitlines()[-1]) == [33.0, "token"]


def test_a_process_that_connects_keeps_its_handler_of_sigterm(local: LocalRay) -> None:
    """Ray's own aborts: a command that got SIGTERM while its run started ended with code -6."""
    ended = run(TERMINATED, local)
    assert (ended.returncode, ended.stdout) == (0, "mine\ngoes on\n"), ended.stderr


def test_a_users_folder_serves_its_environment_and_shadows_nothing(local, users_folder, tmp_path):
    with contextlib.chdir(users_folder):
        answered = run(FROM_THE_USERS_FOLDER, local, str(tmp_path))
    assert answered.returncode == 0, answered.stderr
    ours, pythons, deploy, value, niceness = json.loads(answered.stdout.splitlines()[-1])
    assert niceness == os.nice(0), "workers run as everything else of the user"
    assert (Path(ours).parent, Path(deploy).parent) == (Path(ROOT) / "models", Path(ROOT) / "deploy")
    assert Path(pythons).parent != users_folder
    assert value == 7


def test_our_packages_come_before_those_of_pythonpath(shadows):
    code = "from deploy.cli.main import main; main(['list']); import models; print(models.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=os.environ | {"PYTHONPATH": str(shadows)},
        cwd=shadows, capture_output=True, text=True, timeout=patient(60), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]) == Path(models.__file__)


def test_it_listens_on_the_loopback_address_alone(local):
    addresses = {
        connection.laddr.ip
        for process in processes(local)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_folder_and_token_are_private_and_socket_paths_short(local):
    folder = Path(local.folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    sockets = list(folder.glob("r/session_2*/sockets/*"))
    assert sockets
    assert max(len(str(path)) for path in sockets) <= 107


def test_ctrl_c_in_the_terminal_does_not_reach_it(local):
    assert os.getsid(local.pid) == local.pid
    os.kill(local.pid, signal.SIGINT)
    assert local.alive


def test_a_wrong_token_is_refused(local, tmp_path):
    (tmp_path / "token").write_text("0" * 64)
    stranger = LocalRay(local.address, local.pid, str(tmp_path))
    refused = run(CONNECT, stranger, RAY_NUM_REDIS_GET_RETRIES="1")
    assert refused.returncode != 0
    assert "FleetError" in refused.stderr


def test_ending_leaves_no_process_and_no_folder_and_touches_no_other(local):
    other = cluster.start_local()
    those = processes(other)
    other.end()
    wait_gone(those)
    assert not Path(other.folder).exists()
    assert local.alive
    other.end()  # once more is harmless


def test_who_waits_for_its_end_knows_before_ray_that_it_ends(tmp_path: Path) -> None:
    """Ray waits for its workers: a supervisor that waited for Ray's end in turn held up every end by 6 s."""
    folder, seen = tmp_path / "r", tmp_path / "seen"
    folder.mkdir()
    command = [sys.executable, "-c", AS_RAY, str(folder), keeper.ENDING, str(seen)]
    process = subprocess.Popen(
        [sys.executable, keeper.__file__, str(folder), *command],
        stdin=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    local = LocalRay("", process.pid, str(folder))
    until((folder / "up").exists, "a child that listens", 20)
    assert not local.ends
    local.end()
    process.wait()
    assert seen.read_text() == "True"
    assert local.ends


def test_a_full_disk_does_not_keep_ray_from_its_end(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    killed, folder = [], tmp_path / "ray"
    folder.mkdir()
    monkeypatch.setattr(keeper.Path, "touch", full)
    monkeypatch.setattr(keeper.os, "killpg", lambda *call: killed.append(call))
    ray = subprocess.Popen(["sleep", "60"])
    try:
        keeper.finish(ray, folder)
    finally:
        ray.kill()
        ray.wait()
    assert ray.returncode == -signal.SIGTERM
    assert not folder.exists()
    assert killed == [(0, signal.SIGKILL)]


@pytest.mark.parametrize("claimed", [False, pytest.param(True, marks=pytest.mark.faults_long)])
def test_without_a_supervisor_it_ends_with_the_command_that_started_it(claimed):
    command = subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE, text=True)
    local = LocalRay(**json.loads(command.stdout.readline()))
    if claimed:
        local.claim()
    those = processes(local)
    command.kill()
    command.wait()
    if claimed:
        with pytest.raises(AssertionError, match="not within"):
            until(lambda: not local.alive, "the end of a claimed Ray", 1.5)
        os.kill(local.pid, signal.SIGKILL)  # a killed keeper takes its Ray with it
    wait_gone(those)
    local.end()
    assert not Path(local.folder).exists()


def test_a_recycled_pid_is_not_taken_for_it(local):
    assert not LocalRay(local.address, os.getpid(), local.folder).alive
    assert LocalRay.parse(None) is None


def test_a_clock_that_is_set_back_changes_nothing(local):
    """A process's start is known by the machine's clock; records of before have it."""
    record = {"address": local.address, "pid": local.pid, "started": 1.0, "folder": local.folder}
    assert LocalRay.parse(record).alive


@pytest.mark.parametrize("name", ["a b", "[c]", "d:e", "é", 80 * "x"])
def test_rays_folder_is_elsewhere_where_ray_does_not_come_up(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with tempfile.TemporaryDirectory(prefix=name, dir="/tmp") as temporary:
        monkeypatch.setattr("tempfile.tempdir", temporary)
        folder = cluster._private_folder()
        folder.rmdir()
        assert folder.parent == Path("/tmp")
        assert list(Path(temporary).iterdir()) == []


def test_a_process_that_goes_between_two_questions_is_gone(monkeypatch):
    """It is_running, and when its status is read it is not there any more: in one `make faults` of CI."""
    with subprocess.Popen(["sleep", "60"]) as child:
        process = psutil.Process(child.pid)
        assert is_alive(process)
        child.kill()
        child.wait()
    monkeypatch.setattr(process, "is_running", lambda: True)
    assert not is_alive(process)
