from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.fleet import RunClient, launch
from deploy.run.config import Config
from deploy.run.folder import RunFolder
from tests.helpers.runs.catch_runs import catch_config
from tests.helpers.shards.faulty_servers import FaultyServer, faulty_servers
from tests.helpers.shards.tls import a_free_port


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[FaultyServer]]:
    """Two servers of the user's own, on ports."""
    with faulty_servers(tmp_path / "servers", 0) as servers:
        for place in "ab":
            servers.append(FaultyServer(tmp_path / "servers" / place, port=a_free_port(), bind="127.0.0.1"))
        yield servers


@pytest.fixture
def start_run(shared_ray: str, tmp_path: Path) -> Iterator[Callable[..., tuple[RunClient, RunFolder]]]:
    """Starts a run on Catch on the suite's Ray, and ends what a failing test leaves of it."""
    clients: list[RunClient] = []

    def start(**changes: Any) -> tuple[RunClient, RunFolder]:
        config: Config = catch_config(tmp_path, run__ray_address=shared_ray, **changes)
        folder = RunFolder.create(config)
        client = launch(folder.load_config(), folder, resume=False)
        clients.append(client)
        return client, folder

    yield start
    for client in clients:
        client.shutdown()
