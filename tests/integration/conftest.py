from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.config import Config
from deploy.fleet import RunClient, launch
from deploy.run_folder import RunFolder
from tests.helpers.runs import catch_config


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
