"""Checks that the nodes on which a run may go on have its folder, and see each other's locks there."""

import secrets
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from deploy.fleet.errors import WrongFlag
from deploy.fleet.ray.nodes import alive_nodes, here, only_on, reason
from deploy.fleet.ray.placement import inside, node_of
from deploy.run.config import Config
from deploy.run.folder import RunFolder
from deploy.run.locks import LOCK, is_locked

PROBE = ".storage-probe"
MOST_PROBED = 3
"""Other nodes that are asked: those of a large cluster are alike."""
ANSWER_SECONDS = 120.0
"""For a node to start a process, the first one there, and to look."""


def look(folder: str, nonce: str) -> str:
    """Return what is wrong with the run's folder as seen from this process's node; empty if nothing is."""
    try:
        if (Path(folder) / PROBE).read_text() != nonce:
            return "has another folder of this name"
    except FileNotFoundError:
        return "does not have this folder"
    except OSError as error:
        return f"cannot read this folder ({error.strerror})"
    # The one who asks holds the lock.
    return "" if is_locked(Path(folder) / LOCK) else "has this folder, but its locks do not work across nodes"


def check_storage(config: Config, folder: RunFolder, group: Any) -> None:
    """Raise WrongFlag unless the core's node has the run's folder, and another one that could take the core.

    The caller holds the run's lock. With `--no-failover` the core is on this node, and nothing is asked.
    """
    if not config.run.ray_address or not config.run.failover:
        return
    core, here_ = node_of(group), here()
    asked = {} if core == here_ else {core: inside(group)}
    fits = [node for node in alive_nodes() if node["NodeID"] not in (core, here_) and _fits(node, group)]
    asked |= {node["NodeID"]: only_on(node["NodeID"]) for node in fits[:MOST_PROBED]}
    if not asked:
        return
    nonce, probe = secrets.token_hex(8), folder.path / PROBE
    probe.write_text(nonce)
    try:
        said = _answers(asked, str(folder.path), nonce)
    finally:
        probe.unlink(missing_ok=True)
    for node, problem in said.items():
        if problem:
            raise WrongFlag(_refusal(config, node, problem, is_core=node == core))


def _fits(node: dict[str, Any], group: Any) -> bool:
    bundle = group.bundle_specs[0]
    return all(node["Resources"].get(name, 0.0) >= amount for name, amount in bundle.items())


def _answers(asked: dict[str, Any], folder: str, nonce: str) -> dict[str, str]:
    task: Any = ray.remote(look)
    answers = {
        node: task.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy).remote(folder, nonce)
        for node, strategy in asked.items()
    }
    said = {}
    for node, answer in answers.items():
        try:
            said[node] = ray.get(answer, timeout=ANSWER_SECONDS)
        except RayError as error:
            said[node] = f"cannot look for this folder: {reason(error)}"
    return said


def _refusal(config: Config, node_id: str, problem: str, *, is_core: bool) -> str:
    address = next((n["NodeManagerAddress"] for n in alive_nodes() if n["NodeID"] == node_id), node_id)
    where = "where the learner would run" if is_core else "where the learner would go on if its node died"
    return (
        f"--runs-dir {config.run.runs_dir}: node {address}, {where}, {problem}; put it on storage that all"
        " nodes share, or keep the learner on this node with --no-failover"
    )
