"""A run's core on its Ray: placed at the start, waited for when its node has gone, ended with the run."""

import contextlib
from collections.abc import Callable
from typing import Any

import ray

from deploy.fleet.errors import FleetError
from deploy.fleet.farewell import pending_status, write_farewell
from deploy.fleet.ray import cluster, placement
from deploy.fleet.ray.cluster import LocalRay
from deploy.fleet.ray.storage import check_storage
from deploy.fleet.run_state import load_ray
from deploy.run.config import Config
from deploy.run.folder import RunFolder
from deploy.run.status import path_at_start


def supervisor_name(folder: RunFolder) -> str:
    """Return the name of the run's supervisor on its Ray."""
    # By path: runs of the same name can be in different folders on the same Ray. By its path at the start,
    # because a folder may be renamed while its run works (decision 0019).
    return f"supervisor:{path_at_start(folder)}"


def group_name(folder: RunFolder) -> str:
    """Return the name of the group that reserves a node for the run."""
    return f"core:{path_at_start(folder)}"


def place(config: Config, folder: RunFolder, local: LocalRay | None, waiting: Callable[[str], object]) -> Any:
    """Reserve a node for the run's core, however long that takes, and return Ray's group.

    `waiting`: see `placement.reserve`. Raises WrongFlag when the run's folder is not there, and FleetError
    when the run's own Ray, `local`, ends meanwhile.
    """
    placement.release(group_name(folder))  # Left by a command that was killed.
    with pending_status(folder) as note:

        def still_waiting(why: str) -> None:
            if local is not None and not local.alive:
                raise FleetError("its Ray was ended while it started")
            note(why)
            waiting(why)

        group = placement.reserve(group_name(folder), placement.bundle_for(config), still_waiting)
    try:
        with folder.lock():
            check_storage(config, folder, group)
    except BaseException:
        give_back(folder)
        raise
    return group


def give_back(folder: RunFolder) -> None:
    """Give back what is reserved for the run; whatever of it still runs there ends."""
    placement.release(group_name(folder))


def awaited(folder: RunFolder) -> str:
    """Return why a run on the user's cluster has no node there; empty if it has one. Raises FleetError."""
    address, local = load_ray(folder)
    if not address or local is not None:
        return ""
    cluster.connect(address)
    return placement.awaited(group_name(folder))


def end_waiting(folder: RunFolder) -> bool:
    """End a run that has no node on its cluster; return False if there is no such run. Raises FleetError."""
    if not awaited(folder):
        return False
    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(supervisor_name(folder), cluster.NAMESPACE), no_restart=True)
    give_back(folder)
    write_farewell(folder, {}, "ended while it waited for a node", None, ray_pid=0)
    return True
