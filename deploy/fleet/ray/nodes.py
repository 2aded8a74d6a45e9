"""The nodes of a run's Ray, what the configuration asks of them, and why a call there failed."""

from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from apexpert.errors import one_line
from deploy.fleet.ray.cluster import connect
from deploy.fleet.ray.private import available_resources, draining_nodes


def here() -> str:
    """Return the id of this process's node."""
    return str(ray.get_runtime_context().get_node_id())


def alive_nodes() -> list[dict[str, Any]]:
    """Return the cluster's nodes that are alive."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def cores_of(address: str) -> float:
    """Return the logical CPUs of a cluster; raise WrongFlag when it does not answer. Leaves no connection."""
    connect(address)
    try:
        return float(sum(node["Resources"].get("CPU", 0.0) for node in alive_nodes()))
    finally:
        ray.shutdown()


def own_address() -> str:
    """Return the address at which this Ray's other nodes, those too that join later, reach this one."""
    return str(next(node for node in alive_nodes() if node["NodeID"] == here())["NodeManagerAddress"])


def was_restarted() -> bool:
    """Whether Ray has started this process's actor again, here or on another node."""
    context = ray.get_runtime_context()
    return context.get_actor_id() is not None and bool(context.was_current_actor_reconstructed)


def has_free_core(node_id: str | None) -> bool:
    """Whether Ray has a core to give away on node `node_id`, or on any node for None."""
    nodes = available_resources()
    # Ray may leave out a resource of which nothing is free.
    return any(free.get("CPU", 0.0) >= 1 for node, free in nodes.items() if node_id in (None, node))


def free_cores(node_id: str | None) -> int:
    """Return the cores that Ray has to give away, on node `node_id` or on all that stay for None.

    At least one core of all is the learner's, also if it has not been given away yet.
    """
    leaving, free = draining_nodes(), available_resources()
    nodes = [node for node in alive_nodes() if node_id in (None, node["NodeID"])]
    nodes = [node for node in nodes if node["NodeID"] not in leaving]
    total = sum(int(node["Resources"].get("CPU", 0.0)) for node in nodes)
    given = sum(int(free.get(node["NodeID"], {}).get("CPU", 0.0)) for node in nodes)
    return max(0, min(given, total - 1))


def only_on(node_id: str) -> Any:
    """Return Ray's scheduling strategy for something that must run on node `node_id`."""
    # Not soft: on another node, a socket or a file of this one would not be there.
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)


def reason(error: RayError) -> str:
    """Return in one line why a call on Ray failed: the error raised there, without Ray's text around it."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    if cause is None:
        # Ray's own messages may hold a whole remote traceback.
        return one_line(error)[:300]
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"[:300]
