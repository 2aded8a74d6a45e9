"""Fixtures of the replay tests: each server program in turn, and empty shards on it."""

from collections.abc import Iterator

import pytest

from replay.shards.shard import Shard
from tests.helpers.shards.servers import fresh_run, make_shards, server_programs


@pytest.fixture(params=sorted(server_programs()), scope="session")
def program(request: pytest.FixtureRequest) -> str:
    """Name of a server program."""
    return str(request.param)


@pytest.fixture
def run_name() -> str:
    """A fresh run name, the one of `shards`."""
    return fresh_run()


@pytest.fixture
def shards(program: str, run_name: str) -> Iterator[list[Shard]]:
    """Two empty shards of a fresh run."""
    shards = make_shards(2, program=program, run=run_name)
    yield shards
    for shard in shards:
        shard.close()
