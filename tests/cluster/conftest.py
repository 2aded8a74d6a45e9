from collections.abc import Iterator

import pytest

from tests.helpers.cluster.network import Network, networks


@pytest.fixture
def network() -> Iterator[Network]:
    """A network for machines; all that is on it ends with the test."""
    with networks() as network:
        yield network
