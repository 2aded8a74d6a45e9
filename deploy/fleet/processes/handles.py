"""The supervisor's view of a running role: whether it is alive, what it reports, how it ended."""

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any, cast

import psutil
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from actors.episodes import Episode
from apexpert.errors import one_line
from deploy.fleet.processes.role import Assignment, Report
from deploy.fleet.processes.roles import ActorRole, LearnerRole
from deploy.fleet.ray.nodes import only_on

BEAT_SECONDS, SILENT_SECONDS = 0.5, 60.0
"""Time between heartbeats; a role that has answered before and is silent this long counts as dead."""
LAST_SECONDS = 5.0
# Room for run, heartbeat, stop, save, mark_dead and add_shard at the same time.
CONCURRENCY = 6


@dataclass
class End:
    """How a role ended: with an answer, or with an error."""

    answer: Any = None
    error: BaseException | None = None

    @property
    def reason(self) -> str:
        """One line that describes the end to users."""
        if isinstance(self.error, RayActorError):
            return "its process died"
        if self.error is None:
            return "ended"
        text = one_line(self.error)
        return f"{type(self.error).__name__}: {text}"


@dataclass
class RoleHandle:
    """A role in its own process. Nothing here blocks, except `wait`."""

    actor: Any
    _run: Any
    _beat: Any = None
    _heard: float = field(default_factory=time.monotonic)
    _asked: float = 0.0
    report: Report | None = None
    """The answer to the last heartbeat, or to `run` if that returns a report (an actor's does)."""
    end: End | None = None
    """Set once the role has ended or was found dead."""
    _notes: list[str] = field(default_factory=list)

    def poll(self) -> list[Episode]:
        """Check for the end and an answered heartbeat, send the next one; return newly reported episodes."""
        if self.end is not None:
            return []
        episodes = self._take_beat()
        self._take_end()
        # Before its first answer a role may wait for a free core of the cluster, however long that takes.
        silent = self.report is not None and time.monotonic() - self._heard > SILENT_SECONDS
        if self.end is None and silent:
            self.kill()
            self.end = End(error=TimeoutError(f"no heartbeat for {SILENT_SECONDS:.0f} s"))
        if self.end is not None:
            # An answer under way may hold episodes that the last one does not.
            episodes = episodes + self._receive()
            if isinstance(self.end.answer, dict):
                episodes = episodes + self._take_in(cast(Report, self.end.answer))
        return episodes

    def take_notes(self) -> list[str]:
        """Return the reported events that have not been taken yet."""
        notes, self._notes = self._notes, []
        return notes

    def stop(self) -> None:
        """Tell the role to end cleanly."""
        self.actor.stop.remote()

    def add_shard(self, index: int, url: str) -> None:
        """Tell the role about one more shard."""
        self.actor.add_shard.remote(index, url)

    def wait(self, seconds: float) -> None:
        """Wait for the role to end, at most `seconds`."""
        ray.wait([self._run], timeout=max(seconds, 0.0))

    def ask_last(self) -> None:
        """Fetch the report of a role whose `run` has returned, so that its last numbers count."""
        self._beat = self.actor.heartbeat.remote()
        self._receive()

    def kill(self) -> None:
        """End the role's process at once; harmless when it is gone."""
        ray.kill(self.actor)

    @property
    def ready(self) -> bool:
        """Whether the role is built and at work."""
        return self.report is not None and self.report["ready"]

    @property
    def metrics(self) -> dict[str, float]:
        """The last reported metrics."""
        return self.report["metrics"] if self.report is not None else {}

    def _take_beat(self) -> list[Episode]:
        episodes: list[Episode] = []
        if self._beat is not None and _is_ready(self._beat):
            episodes = self._receive()
        if self._beat is None and time.monotonic() - self._asked >= BEAT_SECONDS:
            self._asked = time.monotonic()
            self._beat = self.actor.heartbeat.remote()
        return episodes

    def _receive(self) -> list[Episode]:
        """Return the episodes of the answer under way, if there is one and it arrives soon."""
        beat, self._beat = self._beat, None
        if beat is None:
            return []
        # Ignore an error: when the process is gone, the end of `run` tells how.
        with contextlib.suppress(RayError, GetTimeoutError):
            return self._take_in(ray.get(beat, timeout=LAST_SECONDS))
        return []

    def _take_in(self, report: Report) -> list[Episode]:
        self.report = report
        self._notes += report["notes"]
        self._heard = time.monotonic()
        return report["episodes"]

    def _take_end(self) -> None:
        if not _is_ready(self._run):
            return
        try:
            self.end = End(answer=ray.get(self._run))
        except RayTaskError as error:
            # Unwrap the role's own exception, with its type; Ray's wrapper holds the remote traceback.
            self.end = End(error=error.cause or error)
        except RayError as error:
            self.end = End(error=error)


def _is_ready(reference: Any) -> bool:
    return bool(ray.wait([reference], timeout=0)[0])


def start_learner(
    assignment: Assignment, dead: set[tuple[int, int]], place: Any, num_gpus: float
) -> RoleHandle:
    """Start the learner with the scheduling strategy `place`, which has its cores."""
    role = _role(LearnerRole, num_cpus=0, num_gpus=num_gpus, place=place)
    # Ray's storage keeps what makes an actor, and not what a call brings.
    actor = role.remote(assignment.without_secrets(), dead)
    return RoleHandle(actor, actor.run.remote(assignment.secrets))


def kill_learner(pid: int, folder: str) -> None:
    """Kill the learner's own process on this node, if `pid` still belongs to it."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if {"deploy.fleet.processes.learner_process", folder} <= set(process.cmdline()):
            process.kill()


def start_actor(
    assignment: Assignment, slot: int, incarnation: int, start_env_steps: int, node_id: str | None
) -> RoleHandle:
    """Start one incarnation of an actor slot on node `node_id`, or on any node for None."""
    place = "DEFAULT" if node_id is None else only_on(node_id)
    role = _role(ActorRole, num_cpus=1, num_gpus=0, place=place)
    actor = role.remote(assignment.without_secrets(), slot, incarnation, start_env_steps)
    return RoleHandle(actor, actor.run.remote(assignment.secrets))


def _role(cls: type, *, num_cpus: int, num_gpus: float, place: Any) -> Any:
    return ray.remote(cls).options(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        max_concurrency=CONCURRENCY,
        # The supervisor replaces roles itself: the next actor is another incarnation.
        max_restarts=0,
        max_task_retries=0,
        scheduling_strategy=place,
    )
