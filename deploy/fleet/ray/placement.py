"""The place of a run's core: one node for its supervisor, weight store, learner and evaluations.

A placement group of one bundle, detached and named by the run's folder. Ray moves it when its node dies, and
with it the supervisor, which begins over from the folder. Actors are not in it: they take what is left.
"""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from deploy.fleet.errors import FleetError, WrongFlag
from deploy.fleet.ray.nodes import alive_nodes, here
from deploy.fleet.ray.private import available_resources, packed_group
from deploy.run.config import Config

LEARNER = "learner"
"""Custom resource of the nodes that are meant for learners, where a cluster has such; 1 a learner."""
LATE_SECONDS, LOOK_SECONDS = 20.0, 0.1
"""A core that waits longer than this for a node is reported."""
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for the entrypoint of a Ray Job."""
WORDS = {"CPU": "free core", "GPU": "free GPU", LEARNER: f"free {LEARNER!r} resource"}


def bundle_for(config: Config) -> dict[str, float]:
    """Return what the run's core reserves on one node of the Ray that this process is connected to.

    A GPU where any node has one, unless the configuration says otherwise, so that the learner never ends up
    on a CPU beside an idle GPU. Raises WrongFlag if a Ray of the run's own lacks the GPU that it needs.
    """
    if not config.run.ray_address:
        # A Ray of the run's own has one node, and no real number of cores.
        (node,) = alive_nodes()
        if config.learner.device == "cuda" and not node["Resources"].get("GPU"):
            raise WrongFlag("--learner.device cuda: Ray finds no GPU here")
        return {"CPU": 1.0} | _gpu(config, [node])
    bundle = {"CPU": float(max(1, config.learner.cpus))}
    nodes = alive_nodes()
    if not config.run.failover:
        nodes = [node for node in nodes if node["NodeID"] == here()]
        bundle[f"node:{nodes[0]['NodeManagerAddress']}"] = 0.001
    elif meant := [node for node in nodes if node["Resources"].get(LEARNER)]:
        nodes, bundle[LEARNER] = meant, 1.0
    return bundle | _gpu(config, nodes)


def _gpu(config: Config, nodes: list[dict[str, Any]]) -> dict[str, float]:
    # A GPU that is asked for may come: the waiting group is what an autoscaler goes by.
    device = config.learner.device
    found = any(node["Resources"].get("GPU") for node in nodes)
    return {"GPU": 1.0} if device == "cuda" or (found and device == "auto") else {}


def reserve(name: str, bundle: Mapping[str, float], waiting: Callable[[str], object]) -> PlacementGroup:
    """Reserve `bundle` on one node under this name, however long that takes.

    `waiting` is called several times a second meanwhile, with the reason once it takes over 20 s; what it
    raises ends the wait, and nothing is left reserved. Raises FleetError when the reservation is given back.
    """
    # Near the command, where that makes no difference to the learner: the run's folder is there.
    group: PlacementGroup = packed_group(dict(bundle), name, here())
    began = time.monotonic()
    try:
        while (state := _state(group)) != "CREATED":
            if state == "REMOVED":
                raise FleetError("it was stopped while it waited for a node")
            late = time.monotonic() - began > LATE_SECONDS
            waiting(why_waiting(bundle) if late else "")
            time.sleep(LOOK_SECONDS)
    except BaseException:
        ray.util.remove_placement_group(group)
        raise
    return group


def release(name: str) -> None:
    """Give back what is reserved under this name, if anything is; what runs there ends."""
    with contextlib.suppress(ValueError):  # There is none.
        ray.util.remove_placement_group(ray.util.get_placement_group(name))


def inside(group: PlacementGroup) -> PlacementGroupSchedulingStrategy:
    """Return Ray's scheduling strategy for a part of the core."""
    # What the part starts in turn, such as the supervisor's actors, is not captured.
    return PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=False)


def own() -> tuple[PlacementGroupSchedulingStrategy, float]:
    """Return the scheduling strategy for parts of the core that this actor is in, and the core's GPUs."""
    group = ray.util.get_current_placement_group()
    assert group is not None, "the supervisor is in its run's group"
    return inside(group), float(group.bundle_specs[0].get("GPU", 0.0))


def node_of(group: PlacementGroup) -> str:
    """Return the id of the node that the group is on."""
    table = ray.util.placement_group_table(group)
    return str(table["bundles_to_node_id"][0])


def awaited(name: str) -> str:
    """Return why the core of that name has no node now; empty if it has one, or if there is no such core."""
    try:
        group = ray.util.get_placement_group(name)
    except ValueError:
        return ""
    return "" if _state(group) in ("CREATED", "REMOVED") else why_waiting(group.bundle_specs[0])


def _state(group: PlacementGroup) -> str:
    """Return Ray's word for it: PENDING, CREATED, RESCHEDULING or REMOVED."""
    return str(ray.util.placement_group_table(group)["state"])


def why_waiting(bundle: Mapping[str, float]) -> str:
    """Return in one line what the core waits for, and the node that has the most of it free."""
    wanted = {name: amount for name, amount in bundle.items() if not name.startswith("node:")}
    line = f"the learner waits for a node with {_words(wanted)}"
    if len(wanted) < len(bundle):
        line = f"the learner waits for {_words(wanted)} on this node (--no-failover)"
    free = available_resources()
    nodes = [(node, free.get(node["NodeID"], {})) for node in alive_nodes()]
    if not nodes:
        return f"{line}; no node is there"
    node, has = max(nodes, key=lambda pair: [pair[1].get(name, 0.0) for name in reversed(wanted)])
    line += f"; the largest free one, {node['NodeManagerAddress']}, has {_words(dict.fromkeys(wanted), has)}"
    if wanted.get("GPU") and not any(has.get("GPU") for _, has in nodes):
        total = sum(node["Resources"].get("GPU", 0.0) for node, _ in nodes)
        line += f"; all GPUs ({total:g}) are taken" if total else "; no node has a GPU"
        if total and JOB_VARIABLE in os.environ:
            line += ", one by this job's entrypoint if it has --entrypoint-num-gpus: submit without it"
    return line


def _words(wanted: Mapping[str, float | None], has: Mapping[str, float] | None = None) -> str:
    """Return `4 free cores and 1 free GPU`, with the amounts of `has` if given."""
    amounts = {name: amount if has is None else has.get(name, 0.0) for name, amount in wanted.items()}
    words = [f"{amount:g} {WORDS[name]}{'' if amount == 1 else 's'}" for name, amount in amounts.items()]
    return " and ".join(words)
