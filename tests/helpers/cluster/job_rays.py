"""A Ray of one node with the Jobs API, as `ray start --head` gives it, on ports and in a folder of its own.

Of the dashboard only the parts that jobs need are started: all of it is nine processes, for which a small
machine takes minutes.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ray

from tests.helpers.deadline import until
from tests.helpers.runs.rays import without_ray_settings

ATTEMPTS = 5
"""A node that does not come up within 30 s gives up, as it may on a busy machine."""
PORTS = (
    "ray-client-server-port",
    "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port",
    "metrics-export-port",
    "runtime-env-agent-port",
)
DASHBOARD = Path(ray.__file__).parent / "dashboard" / "dashboard.py"
CLUSTER_ID = """
import sys
from ray._raylet import GcsClient
print(GcsClient(address=sys.argv[1]).cluster_id.hex())
"""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_agent_register_timeout_ms": "300000",
    # Otherwise it starts one idle Python process for each logical CPU.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    # One of our own ends by itself, and this one ends all that it has started.
    "RAY_worker_niceness": "0",
}


@dataclass(frozen=True)
class JobRay:
    """A Ray that takes jobs."""

    address: str
    """Where it is connected to, as host:port."""
    jobs: str
    """Where its Jobs API answers, as http://host:port."""
    folder: Path
    """Where it writes."""


@contextlib.contextmanager
def ray_with_jobs(num_cpus: int = 4) -> Iterator[JobRay]:
    """Start the Ray and its Jobs API; both end with the block."""
    # In /tmp: a socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="apexpert-jobs-", dir="/tmp"))
    try:
        with contextlib.ExitStack() as stack:
            address, port = _head_address(stack, folder, num_cpus), _free_port()
            command = _dashboard(folder, address, port)
            stack.enter_context(_started(command, folder / "dashboard.txt"))
            jobs = f"http://127.0.0.1:{port}"
            until(lambda: _answers(f"{jobs}/api/version"), "its Jobs API", 180)
            yield JobRay(address, jobs, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _head_address(stack: contextlib.ExitStack, folder: Path, num_cpus: int) -> str:
    """Start the head; again if it gives up, as it does where all takes it more than 30 s."""
    written = folder / "r" / "ray_current_cluster"
    for _ in range(ATTEMPTS):
        head = stack.enter_context(_started(_head(folder, num_cpus), folder / "head.txt"))
        # The file is there before the address is in it.
        while head.poll() is None:
            if written.exists() and (address := written.read_text().strip()):
                return address
            time.sleep(0.1)
    raise AssertionError((folder / "head.txt").read_text())


def _head(folder: Path, num_cpus: int) -> list[str]:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0"]
    command += [f"--temp-dir={folder}/r", f"--num-cpus={num_cpus}", "--include-dashboard=false"]
    command += ["--object-store-memory=200000000", "--disable-usage-stats", "--include-log-monitor=false"]
    # No autoscaler, which would be starting while the node waits 30 s for its agent.
    command += ["--no-monitor"]
    return [*command, *(f"--{name}={_free_port()}" for name in PORTS)]


def _dashboard(folder: Path, address: str, port: int) -> list[str]:
    session = (folder / "r" / "session_latest").resolve()
    asked = [sys.executable, "-c", CLUSTER_ID, address]
    cluster = subprocess.run(asked, capture_output=True, text=True, check=True, env=_environment())
    command = [sys.executable, str(DASHBOARD), "--host=127.0.0.1", f"--port={port}", "--port-retries=0"]
    command += [f"--temp-dir={folder}/r", f"--log-dir={session}/logs", f"--session-dir={session}"]
    command += [f"--gcs-address={address}", f"--cluster-id-hex={cluster.stdout.strip()}"]
    command += [f"--node-ip-address={address.rpartition(':')[0]}", "--modules-to-load=JobHead,NodeHead"]
    return command


@contextlib.contextmanager
def _started(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=_environment()
        )
    try:
        yield process
    finally:
        # `ray start --block` ends what it has started.
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    return without_ray_settings() | SETTINGS | {"PATH": os.environ["PATH"]}


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
