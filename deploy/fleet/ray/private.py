"""Every name that is used of Ray without being part of its API: all of them are in this file.

A test checks that the installed Ray has the names. Whoever changes Ray's range in pyproject.toml looks here
whether they still do the same, and writes the range into `LOOKED_AT`.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import ray
from ray import _raylet
from ray._private import ray_constants, state, worker

LOOKED_AT = "ray>=2.50"
"""Ray's range in pyproject.toml."""
LOOPBACK_ENVIRONMENT = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}
"""Ray's switch for loopback only; by default it listens on every interface."""
COMMAND_LINE = """
import sys
sys.modules["ray.dashboard.optional_deps"] = None
from ray.scripts import scripts
scripts.main()
"""
"""Ray's command line as without `ray[default]`, whose agent costs each start seconds of a core, 100 MB and
two ports, one of them fixed, also with the dashboard off."""


def available_resources() -> dict[str, dict[str, Any]]:
    """Return what is free on each node, by the node's id."""
    free: dict[str, dict[str, Any]] = state.available_resources_per_node()  # type: ignore[no-untyped-call]
    return free


def packed_group(bundle: dict[str, float], name: str, near: str) -> Any:
    """Create a detached group of one bundle: on node `near` if it fits there, else on any other."""
    return ray.util.placement_group(
        [bundle], strategy="STRICT_PACK", name=name, lifetime="detached", _soft_target_node_id=near
    )


def draining_nodes() -> dict[str, int]:
    """Return the ids of the nodes that were told to drain, and when they end, in ms since the epoch.

    0 where no time was given. Ray itself places nothing new on such a node.
    """
    draining: dict[str, int] = state.state.get_draining_nodes()
    return draining


def silence() -> None:
    """Keep Ray from printing messages about its own end between the console's lines."""
    worker.print_to_stdstream = lambda *_, **__: None


def read_environment_again() -> None:
    """Make Ray read its environment and token again: it does on import, and keeps the first token."""
    _raylet.Config.initialize("")  # type: ignore[attr-defined]
    _raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]


@contextlib.contextmanager
def loopback() -> Iterator[None]:
    """Keep Ray from replacing 127.0.0.1 by the machine's outer address, where our Ray does not listen."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
