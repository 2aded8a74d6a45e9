"""The command's handle on a run: starts it, finds it, and talks to its supervisor."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

from actors.config import Actors
from deploy.fleet.errors import FleetError
from deploy.fleet.farewell import TERMINATED_SECONDS, write_farewell
from deploy.fleet.ray import cluster, core, nodes, placement
from deploy.fleet.ray.cluster import LocalRay
from deploy.fleet.run_state import FleetState, forget_ray, load_ray, restore_ray, save_ray
from deploy.run import import_path
from deploy.run.config import Config
from deploy.run.errors import RunBusy
from deploy.run.folder import RAY, STATUS, RunFolder
from deploy.run.states import FINAL_STATES

ANSWER_SECONDS, START_SECONDS, GONE_SECONDS = 5.0, 120.0, 10.0
LOOK_SECONDS = 0.25
CONCURRENCY = 16


class RunClient:
    """A run somewhere on Ray; made by `launch` and `connect`."""

    def __init__(self, folder: RunFolder, supervisor: Any, local: LocalRay | None) -> None:
        self._folder, self._supervisor, self._local = folder, supervisor, local
        self._given_up = False

    def status(self) -> dict[str, Any]:
        """Return the run's status from its supervisor, or status.json if the supervisor does not answer."""
        status = self._ask()
        if status is None:
            status = self._folder.read_json(STATUS, None) or self._unknown()
            if status.get("state") not in FINAL_STATES and (why := self._awaited()):
                # Its supervisor is gone with its node, and cannot say so.
                status |= {"state": "starting", "message": why, "time": time.time()}
        if status.get("state") in FINAL_STATES and self._local is not None:
            self._let_go()
        return status

    def _awaited(self) -> str:
        with contextlib.suppress(FleetError, RayError):
            return "" if self._supervisor is None else core.awaited(self._folder)
        return ""

    @property
    def is_gone(self) -> bool:
        """Whether the supervisor has ended for good, with or without a last status: nothing will change."""
        return self._given_up or (self._local is not None and not self._local.alive)

    def last_words(self, timeout: float, told_to_stop: bool) -> dict[str, Any]:
        """Return the status of a run that `is_gone`, once its processes here have ended or written it.

        A run that was told to stop and left no last status, because its learner was not at work, has stopped.
        """
        self._let_go()  # Ray would end this process a minute after losing its head node.
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            status: dict[str, Any] = self._folder.read_json(STATUS, {})
            if status.get("state") in FINAL_STATES or not self._folder.is_at_work():
                break
            time.sleep(0.1)
        if told_to_stop:
            why = "ended from outside"
            write_farewell(self._folder, {}, why, None, ray_pid=0, seconds=TERMINATED_SECONDS)
        # Read it again: a process may have written its last status just before it ended.
        return self._folder.read_json(STATUS, None) or self._unknown()

    def _unknown(self) -> dict[str, Any]:
        """Return the status of a run that has not written its first one."""
        known = {"run": self._folder.name, "state": "starting", "message": "", "time": time.time()}
        return known | {"metrics": {}, "notes": [], "target_actors": 0, "total_env_steps": 0}

    def scale(self, actors: Actors) -> None:
        """Ask for so many actors, or for `auto:MIN-MAX`; raise FleetError when the run does not answer."""
        self._call("scale", actors)

    def add_shards(self, num_shards: int, urls: tuple[str, ...]) -> None:
        """Ask for `num_shards` embedded servers, or to add the user's `urls`; FleetError if unanswered."""
        self._call("add_shards", num_shards, urls)

    def stop(self) -> None:
        """Ask the run to end cleanly and return at once; raise FleetError when the run does not answer."""
        if self._supervisor is not None:
            self._call("stop")

    def heartbeat(self) -> None:
        """Tell the run that the command that owns it is alive."""
        if self._supervisor is not None:
            with contextlib.suppress(RayError):
                self._supervisor.heartbeat.remote()

    def wait_finished(self, timeout: float) -> dict[str, Any]:
        """Return the status once the run has ended; heartbeats meanwhile. FleetError after `timeout` s."""
        deadline = time.monotonic() + timeout
        while (status := self.status())["state"] not in FINAL_STATES:
            if time.monotonic() > deadline:
                raise FleetError(f"{self._folder.name} is still {status['state']} after {timeout:.0f} s")
            self.heartbeat()
            time.sleep(0.1)
        return status

    def close(self) -> None:
        """Disconnect from the run and leave it as it is."""
        self._let_go()

    def shutdown(self) -> None:
        """End what is left of the run on Ray, and the Ray that it started for itself."""
        # On a cluster only the run's own actors are ended (decision 0005), with their supervisor.
        if self._supervisor is not None and self._local is None:
            with contextlib.suppress(RayError):
                ray.kill(self._supervisor, no_restart=True)
                core.give_back(self._folder)
            _wait_gone(self._folder)
        self._let_go()
        if self._local is not None:
            self._local.end()
            # The run may have been resumed since it ended, on another Ray.
            forget_ray(self._folder, only=self._local)

    def _ask(self) -> dict[str, Any] | None:
        if self._supervisor is None or self.is_gone:
            return None
        try:
            answer = self._supervisor.status.remote()
            deadline = time.monotonic() + ANSWER_SECONDS
            while not ray.wait([answer], timeout=LOOK_SECONDS)[0]:
                if self.is_gone or time.monotonic() > deadline:
                    return None
            status: dict[str, Any] = ray.get(answer)
            return status
        except ActorDiedError:  # Dead for good; a supervisor that is being restarted is only unavailable.
            self._given_up = True
            return None
        except RayError:
            return None

    def _call(self, method: str, *arguments: Any) -> None:
        try:
            ray.get(getattr(self._supervisor, method).remote(*arguments), timeout=ANSWER_SECONDS)
        except (AttributeError, RayError, GetTimeoutError) as error:
            # AttributeError: this client has let go of its supervisor.
            raise FleetError(f"{self._folder.name} does not answer; see apexpert status") from error

    def _let_go(self) -> None:
        """Disconnect: a Ray of the run's own ends soon, and would take a connected process with it."""
        self._supervisor = None
        if self._local is not None and ray.is_initialized():
            ray.shutdown()


def launch(
    config: Config,
    folder: RunFolder,
    *,
    resume: bool,
    waiting: Callable[[str], object] = lambda why: None,
) -> RunClient:
    """Start the run in `folder` (with its saved config); return its client once its supervisor answers.

    Without `run.ray_address` the run gets a Ray of its own. `resume` clears what a crash left behind. Raises
    FleetError (WrongFlag when the configuration does not fit that Ray; then nothing was started), and RunBusy
    when the run is at work already. While no node has room, `waiting` is called several times a second, with
    the reason once that takes long; what it raises ends the start. Where two commands may start the run, the
    caller holds `folder.starting()`.
    """
    # Released again, because the supervisor holds this lock while the run is at work.
    with folder.lock():
        if resume:
            _clear_leftovers(folder)
        folder.settle(folder.drawn_identity())  # Old folders and copies have no identity of their own.
        # Noted before the supervisor starts, which reads from the folder how many actors it shall have.
        # A resumed run has what was last asked for, which `apexpert scale` may have changed.
        if not resume or not FleetState(folder).asked:
            FleetState(folder).ask(config.actors.num_actors)
    before = folder.read_json(RAY, None)
    address, local = config.run.ray_address, None
    if not address:
        local = cluster.start_local()
        address = local.address
    try:
        # Noted before the connection, so that a `resume` after a crash finds this Ray and ends it.
        save_ray(folder, local, address)
        cluster.connect(address, local)
        supervisor = _start_supervisor(config, folder, local, waiting)
        # Only now: without a supervisor that answers, this Ray must end with the command.
        if local is not None:
            local.claim()
    except BaseException:
        if local is not None:
            if ray.is_initialized():
                ray.shutdown()
            local.end()
        restore_ray(folder, before)
        raise
    return RunClient(folder, supervisor, local)


def connect(folder: RunFolder) -> RunClient:
    """Return the client of a run that another command started; raise FleetError when it is not running."""
    address, local = load_ray(folder)
    if not address or (local is not None and not local.alive):
        raise FleetError(f"{folder.name} is not running")
    cluster.connect(address, local)
    try:
        supervisor = ray.get_actor(core.supervisor_name(folder), cluster.NAMESPACE)
    except ValueError:
        raise FleetError(f"{folder.name} is not running") from None
    return RunClient(folder, supervisor, local)


def end_leftovers(folder: RunFolder) -> bool:
    """End the run's own leftover Ray, and with it all roles, or a run that waits for a node of a cluster.

    Returns False when there is nothing to end.
    """
    _, local = load_ray(folder)
    if local is None:
        return core.end_waiting(folder)
    if not local.alive:
        return False
    local.end()
    forget_ray(folder)
    return True


def _wait_gone(folder: RunFolder) -> bool:
    """Wait until Ray has forgotten the run's supervisor, which takes a moment; return False if it stays."""
    deadline = time.monotonic() + GONE_SECONDS
    while time.monotonic() < deadline:
        try:
            ray.get_actor(core.supervisor_name(folder), cluster.NAMESPACE)
        except ValueError:
            return True
        time.sleep(0.05)
    return False


def _start_supervisor(
    config: Config, folder: RunFolder, local: LocalRay | None, waiting: Callable[[str], object]
) -> Any:
    if not _wait_gone(folder):
        if why := core.awaited(folder):
            raise FleetError(f"{why}, and then goes on by itself; to end it: {folder.command('stop')}")
        raise folder.busy()
    group = core.place(config, folder, local, waiting)
    # Imported here: other commands have no use for all that the supervisor imports.
    from deploy.fleet.supervisor import Supervisor

    remote: Any = ray.remote(Supervisor).options(
        name=core.supervisor_name(folder),
        namespace=cluster.NAMESPACE,
        lifetime="detached",
        num_cpus=0,
        max_concurrency=CONCURRENCY,
        max_restarts=-1,
        max_task_retries=0,
        scheduling_strategy=placement.inside(group),
    )
    supervisor = remote.remote(str(folder.path), import_path.users_folders())
    try:
        _wait_for(supervisor.heartbeat.remote(), local)
    except RayError as error:
        with contextlib.suppress(RayError):
            ray.kill(supervisor, no_restart=True)
            core.give_back(folder)
        # Ray passes on why a constructor failed as text only.
        if RunBusy.__name__ in str(error):
            raise folder.busy() from None
        raise FleetError(f"the supervisor does not start: {nodes.reason(error)}") from error
    return supervisor


def _wait_for(answer: Any, local: LocalRay | None) -> None:
    """Wait for an answer over Ray; RayError when none comes, FleetError when the run's own Ray has ended.

    Ray itself would notice only after a minute, and then end this process.
    """
    deadline = time.monotonic() + START_SECONDS
    while not ray.wait([answer], timeout=LOOK_SECONDS)[0]:
        if local is not None and not local.alive:
            raise FleetError("its Ray was ended while it started")
        if time.monotonic() > deadline:
            raise GetTimeoutError(f"no answer within {START_SECONDS:.0f} s")
    ray.get(answer)


def _clear_leftovers(folder: RunFolder) -> None:
    """End a Ray of this run that a crash left; the caller holds the run's lock, so no process is at work."""
    _, local = load_ray(folder)
    if local is not None:
        local.end()
    forget_ray(folder)
