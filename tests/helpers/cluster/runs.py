"""Small runs on Catch on a cluster of machines, seen from here through the storage that they share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deploy.run.folder import RunFolder
from deploy.run.states import FINAL_STATES
from deploy.run.status import read_status
from tests.helpers.cluster.machine import Machine
from tests.helpers.cluster.network import Network
from tests.helpers.deadline import until
from tests.helpers.runs.catch_runs import CATCH, flags, metric

LEARNER = "deploy.fleet.processes.learner_process"
ACTOR, SUPERVISOR, STORE = "ray::ActorRole", "ray::Supervisor", "ray::WeightStore"
SECONDS = 180.0
"""For a start, or a move: seconds where nobody else works, and this is not the place to measure them."""


def train_words(network: Network, head: str, name: str = "r", **changes: Any) -> list[str]:
    """`train` on the Ray at `head`, its folder on the shared storage; changes as `section__name=value`."""
    run = {"name": name, "runs_dir": str(network.shared / "runs"), "ray_address": head}
    sections = {section: dict(values) for section, values in (CATCH | {"run": CATCH["run"] | run}).items()}
    for key, value in changes.items():
        section, field = key.split("__")
        sections.setdefault(section, {})[field] = value
    return ["train", *flags(sections)]


@dataclass(frozen=True)
class SharedRun:
    """A run whose folder is on the shared storage."""

    network: Network
    name: str = "r"

    @property
    def folder(self) -> RunFolder:
        """Its folder, which has the same path here."""
        return RunFolder(self.network.shared / "runs" / self.name)

    def status(self) -> dict[str, Any]:
        """What `apexpert status` would read; nothing before the folder is there."""
        return read_status(self.folder) if self.folder.config_path.exists() else {"state": "", "metrics": {}}

    def until(self, reached: Callable[[dict[str, Any]], bool], what: str, seconds: float = SECONDS) -> Any:
        """The first status for which `reached` holds; AssertionError when the run ends before."""

        def look() -> dict[str, Any] | None:
            status = self.status()
            if reached(status):
                return status
            assert status["state"] not in FINAL_STATES, f"{status['state']}: {status['message']}"
            return None

        return until(look, f"{what}; last: {self.status()}", seconds, pause=0.2)

    def learns(self, updates: float, seconds: float = SECONDS) -> dict[str, Any]:
        """The status once it runs and has made so many updates."""
        status: dict[str, Any] = self.until(
            lambda status: status["state"] == "running" and metric(status, "progress/updates") >= updates,
            f"{updates:g} updates",
            seconds,
        )
        return status

    def where(self, word: str) -> list[str]:
        """The names of the machines that have such a process, one for each."""
        alive = [machine for machine in self.network.machines if machine.alive]
        return [machine.name for machine in alive for _ in machine.processes(word)]


def stop(machine: Machine, run: SharedRun) -> dict[str, Any]:
    """End the run by a command on this machine; its last status."""
    done = machine.apexpert("stop", str(run.folder.path), seconds=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return run.status()
