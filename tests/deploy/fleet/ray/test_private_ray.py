"""Ray's private names: in one file, in the installed Ray, and looked at for the range that is allowed."""

import importlib
import inspect
import re
import tomllib
from pathlib import Path

import psutil
from ray import _raylet
from ray._private import ray_constants, state, worker

import deploy
from deploy.fleet.ray.private import LOOKED_AT, LOOPBACK_ENVIRONMENT

ROOT = Path(deploy.__file__).parents[1]


def test_private_names_are_used_in_one_file() -> None:
    packages = ("apexpert", "models", "replay", "actors", "learner", "deploy")
    private = re.compile(r"\bray\._|from ray import _")
    files = [path for name in packages for path in (ROOT / name).rglob("*.py")]
    using = {path.relative_to(ROOT).as_posix() for path in files if private.search(path.read_text())}
    assert using == {"deploy/fleet/ray/private.py"}


def test_the_installed_ray_has_the_names() -> None:
    assert LOOPBACK_ENVIRONMENT == {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    assert isinstance(ray_constants.ENABLE_RAY_CLUSTER, bool)
    assert callable(worker.print_to_stdstream)
    assert callable(_raylet.Config.initialize)
    assert callable(_raylet.AuthenticationTokenLoader.instance().reset_cache)
    assert not inspect.signature(state.available_resources_per_node).parameters
    assert not inspect.signature(state.state.get_draining_nodes).parameters


def test_the_range_of_ray_is_what_was_looked_at() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [line for line in project["dependencies"] if line.startswith("ray")] == [LOOKED_AT]


def test_a_ray_of_our_own_has_the_agent_of_one_without_dashboard_whatever_is_installed(
    shared_ray: str,
) -> None:
    importlib.import_module("ray.dashboard.optional_deps")  # `ray[default]` is
    of_all = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    # The agent hides its arguments; the raylet, which starts it, has them among its own.
    commands = [word for words in of_all for word in words if word.startswith("--dashboard_agent_command=")]
    agents = [command for command in commands if f"--gcs-address={shared_ray}" in command]
    assert agents
    assert all("--minimal" in command for command in agents)
