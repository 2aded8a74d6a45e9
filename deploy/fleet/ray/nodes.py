"""The nodes of the Ray that a run is on, what the configuration asks of them, and why a call there failed."""

from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from deploy.fleet.errors import WrongFlag
from deploy.run.config import Config


def here() -> str:
    """The id of this process's node."""
    return str(ray.get_runtime_context().get_node_id())


def alive_nodes() -> list[dict[str, Any]]:
    """The cluster's nodes that are alive."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def address_for_others() -> str | None:
    """The address under which this Ray's other nodes reach this one; None when there are none.

    Embedded servers listen there: on sockets alone, they would be reached on this node only.
    """
    nodes = alive_nodes()
    own = next(node for node in nodes if node["NodeID"] == here())
    return str(own["NodeManagerAddress"]) if len(nodes) > 1 else None


def learner_gpus(config: Config, node_id: str) -> float:
    """GPUs that the learner takes: one of its node's, if there is one and it is wanted; else WrongFlag."""
    node = next(node for node in alive_nodes() if node["NodeID"] == node_id)
    found = node["Resources"].get("GPU", 0.0)
    if config.learner.device == "cuda" and not found:
        raise WrongFlag("--learner.device cuda: this node has no GPU that Ray knows of")
    return 1.0 if found and config.learner.device != "cpu" else 0.0


def only_on(node_id: str) -> Any:
    """Ray's scheduling strategy for what has to be on that node."""
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)


def reason(error: RayError) -> str:
    """Why a call on Ray failed, in one line: what the code there raised, without what Ray says around it."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    if cause is None:
        return " ".join(str(error).split())[:300]
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"[:300]
