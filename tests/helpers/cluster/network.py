"""Machines on this machine, on a network of their own: nothing of it is seen, or left, outside.

A `Network` is a bridge in a network namespace of its own; each `Machine` (machine.py) is plugged into it. All
of it belongs to processes that this one has started, and ends with them, also when this process is killed.
Needs root, `ip` and `unshare`.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers.cluster.machine import Machine
from tests.helpers.cluster.namespaces import Namespaces, inside

NEEDED = "APEXPERT_CLUSTER_NEEDED"
"""Set by `make cluster` and `.ci/run`: what is missing for these tests is then a failure, not a skip."""
PREFIX = "10.77.0."
TOOLS = ("ip", "unshare", "nsenter", "mount")


class Network:
    """A bridge, and the machines on it: 10.77.0.1, 10.77.0.2, and so on."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where the machines' logs go, and below it the storage that they share."""
        self.folder = folder
        self.shared = folder / "shared"
        """Storage that the machines have in common, unless one is made without."""
        self.shared.mkdir()
        self.machines: list[Machine] = []
        self._bridge = Namespaces(["--net"], "true")
        self._ip("link add bridge type bridge")
        self._ip("link set bridge up")

    def machine(self, name: str = "", *, shared: bool = True) -> Machine:
        """Start one more machine; `shared`: whether it has the shared folder mounted."""
        number = len(self.machines) + 1
        name = name or f"m{number}"
        machine = Machine(name, f"{PREFIX}{number}", self.folder, self.shared if shared else None)
        self.machines.append(machine)
        plug = f"plug{number}"
        self._ip(f"link add {plug} type veth peer name eth0 netns {machine.pid}")
        self._ip(f"link set {plug} master bridge up")
        machine.attach(lambda up: self._ip(f"link set {plug} {'up' if up else 'down'}"))
        return machine

    def end(self) -> None:
        """End every machine at once, and the network."""
        for machine in self.machines:
            machine.end()
        self._bridge.end()

    def _ip(self, words: str) -> None:
        subprocess.run([*inside(self._bridge.pid, "--net"), "ip", *words.split()], check=True)


@contextlib.contextmanager
def networks() -> Iterator[Network]:
    """Give a network without machines; its end is the end of all that runs on them."""
    skip_without_means()
    # Short, because Ray makes sockets below the machine's /tmp, and the same on every machine.
    folder = Path(tempfile.mkdtemp(prefix="apexpert-machines-", dir="/tmp"))
    network = Network(folder)
    try:
        yield network
    finally:
        network.end()
        shutil.rmtree(folder, ignore_errors=True)


def skip_without_means() -> None:
    """Skip the test with one line where machines cannot be made; fail where they have to be."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for namespaces as machines")
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        why = f"needs {' and '.join(missing)} (apt-get install iproute2 util-linux)"
    else:
        probe = subprocess.run(
            ["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True
        )
        why = "" if probe.returncode == 0 else f"no namespaces here: {probe.stderr.decode().strip()}"
    if why and os.environ.get(NEEDED):
        pytest.fail(why)
    if why:
        pytest.skip(why)


def left_over(folder: Path) -> list[psutil.Process]:
    """Give the processes that still name a network's folder: none, once it has ended."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder) in " ".join([*process.cmdline(), *process.environ().values()]):
                found.append(process)
    return found
