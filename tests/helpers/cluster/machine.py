"""One machine of a `Network`: an address, processes, /tmp, shared memory and a host name of its own."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.helpers.cluster.namespaces import Namespaces, inside
from tests.helpers.deadline import patient, until
from tests.helpers.root import ROOT
from tests.helpers.runs.rays import without_ray_settings

KINDS = ("--net", "--mount", "--pid", "--uts", "--ipc")
OBJECT_STORE_BYTES = 100 * 1024**2
APEXPERT = Path(sys.executable).with_name("apexpert")
PORT, START_ATTEMPTS = 6379, 3
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
LIGHT = {
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_worker_niceness": "0",
    "RAY_worker_register_timeout_seconds": "300",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
}
"""A Ray that costs little beside others, and bears with a machine that they keep busy."""
JOINS = """
import sys, time
from ray._private.services import get_node
for attempt in range(200):
    try:
        get_node(*sys.argv[1:])
        break
    except RuntimeError:
        time.sleep(0.5)
else:
    sys.exit(1)
"""
DRAIN = "DRAIN_NODE_REASON_PREEMPTION"


@dataclass(frozen=True)
class Begun:
    """A command at work on a machine."""

    process: subprocess.Popen[bytes]
    """nsenter's, which waits for the command."""
    log: Path
    """What it prints, on this side."""

    def printed(self) -> str:
        """Standard output and error until now."""
        return self.log.read_text()

    def prints(self, text: str, seconds: float = 90) -> str:
        """All that it printed, once `text` is in it; AssertionError when it ends before or takes longer."""
        until(lambda: text in self.printed() or not self.alive, text, seconds)
        assert text in self.printed(), self.printed()
        return self.printed()

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send the command itself a signal: nsenter would not pass it on."""
        for child in psutil.Process(self.process.pid).children():
            child.send_signal(number)

    def wait(self, seconds: float = 60) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(patient(seconds))


class Machine:
    """A machine; made by `Network.machine`."""

    def __init__(self, name: str, address: str, folder: Path, shared: Path | None) -> None:
        self.name, self.address = name, address
        self.disk = Path("/tmp") / name
        """Storage of its own, as it sees it."""
        self.ray_address = ""
        """The head's that its Ray is on, `10.77.0.1:6379`; empty without a Ray."""
        self._logs = folder
        self._number = 0
        self._environment: dict[str, str] = {}
        self._namespaces = Namespaces([*KINDS, "--mount-proc"], _setup(name, address, shared))
        self.pid = self._namespaces.pid
        self.set_link: Callable[[bool], None]

    def attach(self, set_link: Callable[[bool], None]) -> None:
        """Take up its link, eth0; `set_link` has its other end up or down."""
        self.set_link = set_link
        for words in ("link set lo up", f"addr add {self.address}/24 dev eth0", "link set eth0 up"):
            subprocess.run([*inside(self.pid, "--net"), "ip", *words.split()], check=True)

    @property
    def alive(self) -> bool:
        """Whether it has not been killed or ended."""
        return self._namespaces.alive

    def start_ray(
        self,
        *,
        head: bool = False,
        address: str = "",
        num_cpus: int = 2,
        num_gpus: int = 0,
        resources: Mapping[str, float] | None = None,
        autoscaler: bool = False,
        env: Mapping[str, str] | None = None,
        flags: tuple[str, ...] = (),
        seconds: float = 180,
    ) -> str:
        """Start a Ray node here, the head or one that joins the head at `address`; give the head's address.

        `env` is added to what every later command here gets, too (a token, say); `flags`: of `ray start`.
        """
        assert head != bool(address), "either the head, or with the head's address"
        own = f"{self.address}:{PORT}"
        self._environment |= LIGHT | dict(env or {})
        words = [*RAY, "start", f"--node-ip-address={self.address}", f"--num-cpus={num_cpus}"]
        words += [f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats"]
        words.append("--include-log-monitor=false")
        words += [f"--num-gpus={num_gpus}"] if num_gpus else []
        words += [f"--resources={json.dumps(dict(resources))}"] if resources else []
        if head:
            words += ["--head", f"--port={PORT}"] + ([] if autoscaler else ["--no-monitor"])
            if not any(flag.startswith("--include-dashboard") for flag in flags):
                words.append("--include-dashboard=false")
        else:
            words.append(f"--address={address}")
        for attempts_left in reversed(range(START_ATTEMPTS)):
            done = self.run(*words, *flags, seconds=seconds)
            if done.returncode == 0:
                break
            # Ray gives up after 30 s, too few beside others; its processes start all the same.
            if "timed out during startup" in done.stderr and self._joins(address or own):
                break
            assert attempts_left, done.stdout + done.stderr
            for process in self.processes("/ray/"):
                process.kill()
        self.ray_address = address or own
        return self.ray_address

    def _joins(self, address: str) -> bool:
        """Whether the node whose processes run here appears in the Ray at `address`."""
        return self.run(sys.executable, "-c", JOINS, address, self.node_id()).returncode == 0

    def run(
        self, *words: str | Path, env: Mapping[str, str] | None = None, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        return subprocess.run(
            self._command(words), env=self.environment(env), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=patient(seconds), check=False,
        )  # fmt: skip

    @contextlib.contextmanager
    def popen(self, *words: str | Path, env: Mapping[str, str] | None = None) -> Iterator[Begun]:
        """A command at work; killed in the end if it still is."""
        self._number += 1
        log = self._logs / f"{self.name}-{self._number}.txt"
        with log.open("wb") as out:
            process = subprocess.Popen(
                self._command(words), env=self.environment(env), stdin=subprocess.DEVNULL,
                stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        begun = Begun(process, log)
        try:
            yield begun
        finally:
            with contextlib.suppress(psutil.Error):
                begun.send(signal.SIGKILL)
            process.kill()
            process.wait()

    def apexpert(
        self, *words: str, env: Mapping[str, str] | None = None, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """`apexpert` as a user types it here, to its end."""
        return self.run(APEXPERT, *words, env=env, seconds=seconds)

    def python(self, code: str, *words: str, seconds: float = 120) -> str:
        """What a program prints; AssertionError when it fails."""
        done = self.run(sys.executable, "-c", code, *words, seconds=seconds)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def processes(self, word: str = "") -> list[psutil.Process]:
        """Its processes that have `word` in their command line, as seen from here."""
        ours = (Path("/proc") / str(self.pid) / "ns/pid").readlink()
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                namespace = (Path("/proc") / str(process.pid) / "ns/pid").readlink()
                if namespace == ours and word in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def node_id(self) -> str:
        """Ray's id of the node here."""
        (raylet,) = self.processes("/raylet/raylet ")
        found: list[str] = re.findall(r"--node_id=(\w+)", " ".join(raylet.cmdline()))
        return found[0]

    def drain(self, seconds: float = 120) -> None:
        """Tell Ray that this node ends in `seconds`, as at a preemption; returns at once."""
        words = ["drain-node", f"--address={self.ray_address}", f"--node-id={self.node_id()}"]
        words += [f"--reason={DRAIN}", "--reason-message=preempted"]
        done = self.run(*RAY, *words, f"--deadline-remaining-seconds={seconds:.0f}")
        assert done.returncode == 0, done.stdout + done.stderr

    def cut(self) -> None:
        """Cut its link: nothing arrives and nothing leaves, and nobody is told."""
        self.set_link(False)

    def mend(self) -> None:
        """Mend its link."""
        self.set_link(True)

    def kill(self) -> None:
        """End it as a loss of power does: nobody is told, and its own storage is gone."""
        if self.alive:
            # First: a killed process would close its connections, and others would know at once.
            self.cut()
        self.end()

    def end(self) -> None:
        """End every process on it at once; its connections are closed."""
        self._namespaces.end()

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Of its commands: this process's, without what the suite's own Ray has put there."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        own = {"PYTHONPATH": path, "COLUMNS": "200", "HOME": str(self.disk), "TMPDIR": "/tmp"}
        return without_ray_settings() | own | self._environment | dict(more or {})

    def _command(self, words: tuple[str | Path, ...]) -> list[str]:
        # In its own folder: a command must not depend on the tests' current one, which may not be there.
        kinds = (*KINDS, f"--wdns={self.disk}")
        return [*inside(self.pid, *kinds), *map(str, words)]


def _setup(name: str, address: str, shared: Path | None) -> str:
    """The script that gives a machine its own /tmp, shared memory, boot id and name, which it can resolve."""
    visible = [Path(path) for path in {str(ROOT), sys.prefix, sys.base_prefix}]
    visible = [path for path in visible if path.is_relative_to("/tmp")] + ([shared] if shared else [])
    visible = [
        path for path in visible if not any(path.is_relative_to(other) for other in visible if other != path)
    ]
    lines = [
        "mount --make-rprivate /",
        f"hostname {shlex.quote(name)}",
        # A /tmp of its own, with what has to be seen bound below it; built elsewhere, then bound there.
        "mount -t tmpfs -o mode=1777 none /mnt",
    ]
    for path in map(str, visible):
        there = shlex.quote(f"/mnt/{Path(path).relative_to('/tmp')}")
        lines += [f"mkdir -p {there}", f"mount --rbind {shlex.quote(path)} {there}"]
    lines += [
        "mount --rbind /mnt /tmp",
        "umount -l /mnt",
        "mount -t tmpfs -o mode=1777 none /dev/shm",
        f"mkdir /tmp/{name}",
        # Otherwise all would look like one machine that has not been rebooted.
        f"cat /proc/sys/kernel/random/uuid > /tmp/{name}/boot_id",
        f"mount --bind /tmp/{name}/boot_id /proc/sys/kernel/random/boot_id",
        f"printf '127.0.0.1 localhost\\n{address} {name}\\n' > /tmp/{name}/hosts",
        f"mount --bind /tmp/{name}/hosts /etc/hosts",
    ]
    return "\n".join(lines)
