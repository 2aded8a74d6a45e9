"""Two Ray nodes with embedded servers: they listen on the node's address, for their user alone."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.helpers.runs.catch_runs import CATCH, flags
from tests.helpers.runs.commands import APEXPERT
from tests.helpers.runs.rays import ray_of_nodes, without_ray_settings
from tests.helpers.shards.access import files_with, seen_of_processes


@pytest.fixture
def address() -> Iterator[str]:
    """Two Ray nodes on this machine."""
    with ray_of_nodes(3, 2) as address:
        yield address


def listening(replay: Path) -> set[str]:
    """Addresses on which the run's servers listen now."""
    found: set[str] = set()
    with suppress(OSError, ValueError, psutil.Error):  # not started yet, or ended already
        for pid in json.loads((replay / "state.json").read_text())["pids"]:
            process = psutil.Process(pid)
            connections = process.net_connections("inet")
            if "server" in process.name():  # before its exec, it has the sockets of who starts it
                found |= {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    return found


@pytest.mark.faults_long
def test_actors_anywhere_reach_servers_that_listen_on_the_learners_node(address: str, tmp_path: Path) -> None:
    options = {"total_env_steps": 560, "runs_dir": str(tmp_path), "name": "r", "ray_address": address}
    command = [str(APEXPERT), "train", *flags(CATCH | {"run": CATCH["run"] | options})]
    replay, where, arguments = tmp_path / "r" / "replay", set(), []
    environment = without_ray_settings()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as process:
        while process.poll() is None:
            where |= listening(replay)
            arguments += seen_of_processes("cmdline")
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.3)
        assert process.stdout is not None
        printed = process.stdout.read()
    password = (replay / "password").read_bytes()
    assert process.returncode == 0, printed.decode()
    assert where == {address.rpartition(":")[0]}
    assert password not in printed
    assert not any(password in text for text in arguments)
    assert files_with(password, tmp_path) == [replay / "password"]
