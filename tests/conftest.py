from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[str]:
    """One Ray for the whole suite, with this process connected to it; gives its address."""
    import ray

    from deploy.fleet import cluster

    local = cluster.start_local()
    cluster.connect(local.address, local)
    yield local.address
    ray.shutdown()
    local.end()
