"""Asks every node of a Ray cluster what it has, and lists what has to be mended before a run."""

import contextlib
import fcntl
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError

from deploy.fleet.errors import WrongFlag
from deploy.fleet.ray import look
from deploy.fleet.ray.cluster import connect
from deploy.fleet.ray.nodes import alive_nodes, here, only_on, reason
from deploy.run.machine.findings import Finding

ANSWER_SECONDS = 120.0
"""For a node to start a process, the first one there, and to look."""
LEARNER = "learner"
"""Custom resource of the nodes that are meant for learners."""


@dataclass(frozen=True)
class Node:
    """A node and what it says of itself."""

    address: str
    resources: Mapping[str, float]
    is_here: bool
    """Whether it is the asking process's node."""
    found: Mapping[str, Any]
    """See `look`; with `error` alone if it does not answer."""


def ask_nodes(address: str, runs_dir: Path, urls: Sequence[str]) -> list[Node]:
    """Connect to the Ray at `address` and ask every node; the asking process's own comes first.

    Raises WrongFlag when that Ray does not let us in or `runs_dir` cannot be written here.
    """
    connect(address)
    with _held_file(runs_dir) as (probe, nonce):
        # By value: a node may have another Apexpert, or none.
        cloudpickle.register_pickle_by_value(look)  # type: ignore[no-untyped-call]
        try:
            task: Any = ray.remote(look.look)
            asked = [
                (node, _on(task, node).remote(str(probe), nonce, list(urls)))
                for node in sorted(alive_nodes(), key=lambda node: str(node["NodeManagerAddress"]))
            ]
        finally:
            cloudpickle.unregister_pickle_by_value(look)  # type: ignore[no-untyped-call]
        ray.wait([answer for _, answer in asked], num_returns=len(asked), timeout=ANSWER_SECONDS)
        nodes = [
            Node(
                str(node["NodeManagerAddress"]), node["Resources"], node["NodeID"] == here(), _answer(answer)
            )
            for node, answer in asked
        ]
    return sorted(nodes, key=lambda node: not node.is_here)


def _on(task: Any, node: Mapping[str, Any]) -> Any:
    return task.options(num_cpus=0, max_retries=0, scheduling_strategy=only_on(node["NodeID"]))


def _answer(answer: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = ray.get(answer, timeout=0)
        return found
    except ray.exceptions.GetTimeoutError:
        return {"error": f"no answer within {ANSWER_SECONDS:.0f} s", "silent": True}
    except RayError as error:
        return {"error": reason(error), "silent": True}


@contextlib.contextmanager
def _held_file(runs_dir: Path) -> Iterator[tuple[Path, str]]:
    """Yield a file where the runs will be, and its text; this process holds its lock meanwhile."""
    folder = runs_dir.absolute()
    # A folder that does not exist yet will be made in its nearest parent that does.
    folder = next(path for path in (folder, *folder.parents) if path.is_dir())
    probe, nonce = folder / f".cluster-check-{secrets.token_hex(4)}", secrets.token_hex(8)
    try:
        file = probe.open("x")
    except OSError as error:
        raise WrongFlag(f"--runs-dir {runs_dir}: {error.strerror or error}") from None
    with file:
        try:
            file.write(nonce)
            file.flush()
            with contextlib.suppress(OSError):  # A file system without locks: every node will say so.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield probe, nonce
        finally:
            probe.unlink(missing_ok=True)


def to_mend(nodes: Sequence[Node], runs_dir: Path) -> list[Finding]:
    """Return what is wrong, named by its node: `fail` for what has to be mended, `warn` for the rest."""
    own = next(node for node in nodes if node.is_here)
    found: list[Finding] = []
    for node in nodes:
        if node.found.get("silent"):
            found.append(Finding("fail", node.address, str(node.found["error"]), "look at Ray's logs there"))
            continue
        found += [part._replace(name=node.address) for part in _of_versions(node, own.found)]
        if "error" not in node.found:
            found += [part._replace(name=node.address) for part in _of_machine(node)]
        found += [part._replace(name=node.address) for part in _of_folder(node, nodes, runs_dir)]
    return found


def _of_versions(node: Node, own: Mapping[str, Any]) -> Iterator[Finding]:
    found = node.found
    same = {"Python": (found["python"], own["python"])}
    # Code goes between nodes as Python's own bytecode, which differs between 3.11 and 3.12.
    minor = [version.rpartition(".")[0] for version in same["Python"]]
    if minor[0] != minor[1]:
        yield Finding("fail", "", f"Python {found['python']}, and {own['python']} here", "install the same")
    if found["ray"] != own["ray"]:
        yield Finding("fail", "", f"Ray {found['ray']}, and {own['ray']} here", "install the same")
    if found["apexpert"] == "none":
        yield Finding("fail", "", "Apexpert is not installed", "install it for the Python that Ray has there")
    elif "error" in found:
        yield Finding("fail", "", f"Apexpert fails there: {found['error']}", "install the same as here")
    elif named(found) != named(own) and "error" not in own:
        yield Finding("fail", "", f"Apexpert {named(found)}, and {named(own)} here", "install the same")


def named(found: Mapping[str, Any]) -> str:
    """Return Apexpert's version on a node, with the first digits of the commit it is a checkout of."""
    commit = found.get("commit") or ""
    short = f"{commit[:8]}{'+' if commit.endswith('+') else ''}"
    return " ".join(filter(None, [str(found.get("apexpert", "-")), short]))


def _of_machine(node: Node) -> Iterator[Finding]:
    found, offered = node.found, node.resources.get("GPU", 0.0)
    for level, name, text, advice in found["findings"]:
        if level != "ok":
            yield Finding(level, "", f"{name}: {text}", advice)
    if found["gpus"] and not offered:
        advice = f"start Ray there with --num-gpus={len(found['gpus'])}"
        yield Finding("warn", "", f"{len(found['gpus'])} GPUs that Ray does not offer", advice)
    elif offered and not found["gpus"]:
        advice = "a learner there trains on the CPU or fails"
        yield Finding("warn", "", f"Ray offers {offered:g} GPUs, and nvidia-smi finds none", advice)
    elif found["gpus"] and not found["cuda"]:
        yield Finding("fail", "", "torch is built without CUDA, and there is a GPU", "install torch for CUDA")
    if found["redis"]:
        yield Finding("fail", "", str(found["redis"]), "open the way from there, or start the server")


def _of_folder(node: Node, nodes: Sequence[Node], runs_dir: Path) -> Iterator[Finding]:
    state = node.found["folder"]
    if state == look.SHARED or node not in for_learners(nodes):
        return
    if state == look.MISSING:
        advice = "mount it there, name another by --runs-dir, or train with the learner on one node alone"
        yield Finding("fail", "", f"{runs_dir.absolute()} is not the same folder there", advice)
    elif state == look.UNLOCKED:
        advice = "mount it with locks (NFS: without nolock or local_lock)"
        yield Finding("fail", "", f"locks in {runs_dir.absolute()} do not work across nodes", advice)
    else:
        yield Finding("fail", "", f"{runs_dir.absolute()}: {state}", "let Ray's user write there")


def for_learners(nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes to which a learner may go, which need the runs' folder; actors need no folder."""
    for name in (LEARNER, "GPU"):
        if meant := [node for node in nodes if node.resources.get(name)]:
            return meant
    return [node for node in nodes if node.resources.get("CPU")]
