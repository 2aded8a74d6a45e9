"""`apexpert cluster check`: whether every node of a Ray cluster can take part in a run, and what to mend."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from deploy.cli.doctor import line
from deploy.cli.errors import UsageError
from deploy.cli.parsing import parse
from deploy.run.config import ConfigError, hide_password
from deploy.run.folder import RunFolder
from deploy.run.preflight import (
    RAY_VARIABLE,
    check_ray_address,
    origin_of_ray,
    urls_of_environment,
)

if TYPE_CHECKING:
    from deploy.fleet.ray.node_check import Node


@dataclass(frozen=True)
class Servers:
    """Redis servers."""

    urls: tuple[str, ...] = ()
    """Servers that every node has to reach; `@FILE` is read on each node. Empty: $APEXPERT_REDIS_URLS."""


@dataclass(frozen=True)
class ClusterArguments:
    """Ask every node of a Ray cluster for versions, the runs' folder and its locks, shared memory, open
    files, GPU and Redis; exit code 1 if anything has to be mended. Run it on a machine of the cluster.

      apexpert cluster check --ray-address auto --runs-dir /shared/runs
    """

    what: Annotated[Literal["check"], tyro.conf.Positional, tyro.conf.arg(metavar="check")]
    """check: the only one there is."""
    ray_address: str = ""
    """The cluster; `auto` finds one started on this machine, empty takes that of $RAY_ADDRESS."""
    runs_dir: str = "runs"
    """Folder that will hold the runs; nodes for learners need it, all of them the same."""
    replay: Servers = field(default_factory=Servers)


def cluster(argv: Sequence[str]) -> int:
    """Print a table of the nodes and a line for each thing to mend; return the exit code."""
    arguments = parse(ClusterArguments, argv, command="cluster")
    address = arguments.ray_address or os.environ.get(RAY_VARIABLE, "")
    if not address:
        raise UsageError(f"--ray-address: name the cluster, as HEAD:6379 or auto; ${RAY_VARIABLE} does too")
    check_ray_address(address)
    runs_dir = RunFolder(Path(arguments.runs_dir)).path
    urls = arguments.replay.urls or urls_of_environment()
    from deploy.fleet.errors import WrongFlag
    from deploy.fleet.ray.node_check import ask_nodes, to_mend

    print(f"asking the nodes of the Ray at {address}{origin_of_ray(address)} ...", flush=True)
    try:
        nodes = ask_nodes(address, runs_dir, urls)
    except WrongFlag as error:
        raise ConfigError(str(error)) from None
    _print_table(nodes, bool(urls))
    findings = to_mend(nodes, runs_dir)
    for finding in findings:
        print(hide_password(line(finding)))
    failed = sum(finding.level == "fail" for finding in findings)
    print(f"{failed} to mend" if failed else "this cluster can train")
    return 1 if failed else 0


def _print_table(nodes: Sequence["Node"], asked_redis: bool) -> None:
    from rich.table import Table

    from deploy.fleet.ray.node_check import named
    from deploy.monitor.terminal import print_whole

    columns = ["node", "python", "ray", "apexpert", "CPUs", "GPUs", "shared memory", "open files"]
    columns += ["runs folder", "redis"] if asked_redis else ["runs folder"]
    table = Table(*columns, box=None, pad_edge=False)
    for node in nodes:
        found = node.found
        parts = {name: text for _, name, text, _ in found.get("findings", ())}
        cells = [
            f"{node.address}{' (here)' if node.is_here else ''}",
            *(str(found.get(name, "-")) for name in ("python", "ray")),
            named(found),
            *(f"{node.resources.get(name, 0):g}" for name in ("CPU", "GPU")),
            parts.get("shared memory", "-").partition(" free")[0],
            parts.get("open files", "-").partition(" ")[0],
            str(found.get("folder", "-")),
        ]
        redis = "-" if "redis" not in found else "no answer" if found["redis"] else "answers"
        table.add_row(*cells, *([redis] if asked_redis else []))
    print_whole(table)
