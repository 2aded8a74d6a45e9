"""Runs found through the Ray that they are on, by the names of their supervisors: no folder is needed."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

from actors.config import Actors
from deploy.fleet.errors import FleetError
from deploy.fleet.ray.cluster import NAMESPACE, connect
from deploy.run.errors import RunError, RunNotFound
from deploy.run.states import FINAL_STATES

PREFIX = "supervisor:"
"""What the name of a supervisor begins with; the path of its run's folder follows."""
ANSWER_SECONDS, STOP_SECONDS, LOOK_SECONDS = 10.0, 300.0, 0.2


class RunOnRay:
    """A run at work, seen through its supervisor."""

    def __init__(self, path: str, supervisor: Any) -> None:
        """`path`: of its folder, where its supervisor sees it."""
        self.path, self._supervisor = path, supervisor

    @property
    def name(self) -> str:
        """The run's name, which is its folder's."""
        return Path(self.path).name

    def status(self) -> dict[str, Any]:
        """Return the run's status, as in status.json; raise FleetError without an answer."""
        status: dict[str, Any] = self._call("status")
        return status

    def scale(self, num_actors: Actors) -> None:
        """Ask for `num_actors` actors; raise FleetError without an answer."""
        self._call("scale", num_actors)

    def stop(self, tell: Callable[[str], object] = lambda text: None) -> dict[str, Any]:
        """Ask the run to stop and return its last status once it has; raise FleetError."""
        # The supervisor waits a moment for whoever wants to see the end.
        self._call("stop", True)
        tell("stopping")
        deadline, status = time.monotonic() + STOP_SECONDS, {"state": ""}
        while time.monotonic() < deadline:
            try:
                status = ray.get(self._supervisor.status.remote(), timeout=ANSWER_SECONDS)
            except ActorDiedError:
                raise FleetError(f"{self.name} has ended, and how was not seen: see {self.path}") from None
            except (RayError, GetTimeoutError):
                pass  # It is being restarted, or has no time.
            if status["state"] in FINAL_STATES:
                return status
            time.sleep(LOOK_SECONDS)
        raise FleetError(f"{self.name} has not stopped after {STOP_SECONDS:.0f} s; it is {status['state']}")

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(self._supervisor, method).remote(*arguments), timeout=ANSWER_SECONDS)
        except (RayError, GetTimeoutError) as error:
            raise FleetError(f"{self.name} does not answer ({self.path} on this Ray)") from error


def runs_on(address: str) -> list[RunOnRay]:
    """Connect to the Ray and return the runs at work there, by name; raise FleetError."""
    connect(address)
    named = ray.util.list_named_actors(all_namespaces=True)
    found = []
    for actor in named:
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(PREFIX):
            try:
                supervisor = ray.get_actor(actor["name"], NAMESPACE)
            except ValueError:
                continue  # It has ended since it was listed.
            found.append(RunOnRay(actor["name"].removeprefix(PREFIX), supervisor))
    return sorted(found, key=lambda run: (run.name, run.path))


def find_on(address: str, wanted: str) -> RunOnRay:
    """Return the run of that name, or with that folder, on the Ray at `address`.

    Raises RunNotFound when none is at work there, RunError when several have the name, and FleetError.
    """
    runs = runs_on(address)
    found = [run for run in runs if wanted in (run.name, run.path)]
    if len(found) == 1:
        return found[0]
    if found:
        paths = " and ".join(run.path for run in found)
        raise RunError(f"{wanted}: {len(found)} runs on that Ray have this name; give one's folder: {paths}")
    known = f"at work there: {', '.join(run.name for run in runs)}" if runs else "none is"
    raise RunNotFound(f"no run {wanted!r} is at work on the Ray at {address}; {known}")
