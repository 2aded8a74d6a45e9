"""Ray itself: a local one that belongs to the run, or an existing cluster that is only connected to.

The local Ray listens on 127.0.0.1 only, requires a random token, lives in a short private folder and has a
keeper process in its own session (see keeper.py), so that it outlives the command and can be ended without
touching any other Ray on this machine.
"""

import contextlib
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
import ray

from actors.config import MOST_ACTORS
from deploy.fleet.errors import FleetError, WrongFlag
from deploy.fleet.ray import keeper, private
from deploy.fleet.ray.probe import check_answers
from deploy.run import import_path
from deploy.run.preflight import JOB_VARIABLE

NAMESPACE = "apexpert"
OBJECT_STORE_BYTES = 256 * 1024**2
LOGICAL_CPUS = MOST_ACTORS + 16
"""More than any machine has, so that `apexpert scale` is never refused on a Ray of our own."""
START_SECONDS, START_ATTEMPTS = 90.0, 3
NO_TASK_EVENTS = {"RAY_task_events_report_interval_ms": "0"}
"""Nobody reads them, and a process that leaves a vanished Ray would try for 5 s to deliver them."""
# Below its folder Ray makes sockets with 68 characters; the system's limit for a socket's path is 107.
SOCKET_SUFFIX, SOCKET_LIMIT = 68, 107
# Ray does not start in a folder with certain other characters, such as spaces or brackets.
PLAIN = re.compile(r"[A-Za-z0-9/._-]+")

_keepers: list[subprocess.Popen[bytes]] = []
"""Keepers that this process started: while their pipes are open, they know that it lives."""


@dataclass(frozen=True)
class LocalRay:
    """A Ray that we started: enough to connect to it and to end it, from any process of this machine."""

    address: str
    pid: int
    """Process id of the keeper."""
    folder: str
    """Private, 0700; holds the token and everything that Ray writes. No other process has it among its
    arguments, so a recycled pid is never mistaken for the keeper."""

    @classmethod
    def parse(cls, document: dict[str, Any] | None) -> Self | None:
        """Parse the record in a run's folder; return None when there is none."""
        return cls(document["address"], document["pid"], document["folder"]) if document else None

    @property
    def alive(self) -> bool:
        """Whether the keeper still runs."""
        try:
            process = psutil.Process(self.pid)
            return self.folder in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    @property
    def ends(self) -> bool:
        """Whether Ray has ended or is about to: it waits for its workers, so they must not wait for it."""
        return (Path(self.folder) / keeper.ENDING).exists() or not self.alive

    def claim(self) -> None:
        """Let this Ray outlive the command that started it from now on."""
        (Path(self.folder) / keeper.CLAIM).touch()

    def wait_for_end(self, seconds: float) -> None:
        """Wait until it has ended or is about to, `seconds` at most."""
        deadline = time.monotonic() + seconds
        while not self.ends and time.monotonic() < deadline:
            time.sleep(0.1)

    def signal_end(self) -> None:
        """Ask the keeper to end Ray, without waiting."""
        with contextlib.suppress(ProcessLookupError):
            if self.alive:
                os.kill(self.pid, signal.SIGTERM)

    def end(self, timeout: float = 20.0) -> None:
        """End Ray and wait; raise FleetError when it is still there after `timeout` seconds."""
        self.signal_end()
        deadline = time.monotonic() + timeout
        while self.alive:
            if time.monotonic() > deadline:
                raise FleetError(f"Ray of this run (process {self.pid}) does not end")
            time.sleep(0.05)
        shutil.rmtree(self.folder, ignore_errors=True)


def start_local(num_cpus: int = LOGICAL_CPUS, num_gpus: int | None = None) -> LocalRay:
    """Start a Ray of our own with `num_cpus` logical CPUs; raise FleetError when it does not come up."""
    for attempts_left in reversed(range(START_ATTEMPTS)):
        try:
            return _start_local(num_cpus, num_gpus)
        except FleetError:
            # Another process may take the free port that was found before Ray does.
            if not attempts_left:
                raise
    raise AssertionError("not reached")


def _start_local(num_cpus: int, num_gpus: int | None) -> LocalRay:
    folder = _private_folder()
    token = folder / "token"
    # Make the file private before the token is in it.
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    process = subprocess.Popen(
        [sys.executable, "-P", keeper.__file__, str(folder), *_ray_start(folder, num_cpus, num_gpus)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | _ray_environment(token),
    )
    address = _wait_for_address(process, folder)
    _keepers.append(process)
    return LocalRay(address=address, pid=process.pid, folder=str(folder))


def _private_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="apexpert-ray-")
    if len(folder) + SOCKET_SUFFIX > SOCKET_LIMIT or not PLAIN.fullmatch(folder):
        Path(folder).rmdir()
        folder = tempfile.mkdtemp(prefix="apexpert-ray-", dir="/tmp")
    return Path(folder)


def _ray_start(folder: Path, num_cpus: int, num_gpus: int | None) -> list[str]:
    command = [sys.executable, "-c", private.COMMAND_LINE, "start", "--head", "--block", "--port=0"]
    command += [f"--temp-dir={folder}/r", f"--num-cpus={num_cpus}", "--include-dashboard=false"]
    command += [f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats"]
    # Ray's client server cannot be turned off and has a fixed port, which a second run would collide on.
    command += ["--include-log-monitor=false", f"--ray-client-server-port={_free_port()}", "--no-monitor"]
    return command if num_gpus is None else [*command, f"--num-gpus={num_gpus}"]


def _ray_environment(token: Path) -> dict[str, str]:
    return {
        **private.LOOPBACK_ENVIRONMENT,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        # The supervisor's children (the Redis servers' guardian) end in their own orderly way.
        "RAY_kill_child_processes_on_worker_exit": "0",
        # Otherwise Ray starts one idle Python process for each logical CPU.
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        **NO_TASK_EVENTS,
        # Otherwise its workers run at nice 15, and starve beside anything else on the machine.
        "RAY_worker_niceness": "0",
        # Waiting threads must not spin: actors and the learner share the cores.
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        "PYTHONPATH": import_path.python_path(),
        # Keep Ray's Python programs from searching the current folder, which is the user's, first.
        "PYTHONSAFEPATH": "1",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_address(process: subprocess.Popen[bytes], folder: Path) -> str:
    """Return the address once Ray has written it, which it does last, when everything listens."""
    address, log = folder / "r" / "ray_current_cluster", folder / "ray-start.log"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if address.exists() and (text := address.read_text()):
            return text.strip()
        if process.poll() is not None:
            break
        time.sleep(0.05)
    said = log.read_text(errors="replace").strip() if log.exists() else ""
    process.terminate()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)
    raise FleetError(f"Ray did not start: {said.splitlines()[-1] if said else 'it said nothing'}")


def connect(address: str, local: LocalRay | None = None) -> None:
    """Connect this process to a Ray, once; raise FleetError when that Ray cannot be reached.

    `local`: a Ray of ours, which needs its token and the loopback address.
    """
    if ray.is_initialized():
        return
    if local is not None:
        _use_token(Path(local.folder) / "token")
        # The log tells the run's end.
        private.silence()
    else:
        check_answers(address)
    try:
        loopback = private.loopback() if local is not None else contextlib.nullcontext()
        # Ray's workers search the driver's current folder first, so make it ours for a moment.
        with contextlib.chdir(import_path.ROOT), loopback, _own_sigterm():
            ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if local is not None:
            raise FleetError(f"the Ray of this run does not answer at {address}") from error
        raise WrongFlag(f"--ray-address {address}: no Ray answers there") from error


def _use_token(token: Path) -> None:
    """Make Ray read `token` instead of the token that it has found before, if any."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)} | NO_TASK_EVENTS
    # What a job brings along, such as its working directory, is known to its own cluster alone.
    os.environ.pop(JOB_VARIABLE, None)
    private.read_environment_again()


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's SIGTERM handler: Ray installs its own, one that aborts and one in Python.

    A SIGTERM that arrives meanwhile is delivered afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        if handler is not None:  # None is a handler in C, from before Python.
            signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
