"""A Ray that somebody else has started, as on a cluster: several nodes, in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.helpers.deadline import patient

NODES = """
import sys
from ray.cluster_utils import Cluster

first, *others = map(int, sys.argv[1:])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": first})
for cores in others:
    cluster.add_node(num_cpus=cores)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


def without_ray_settings() -> dict[str, str]:
    """This process's environment without what the suite's own Ray has put there, such as its token."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


@contextmanager
def ray_of_nodes(*cores: int) -> Iterator[str]:
    """Start one node for each number of cores; gives the address of the first."""
    with subprocess.Popen(
        [sys.executable, "-c", NODES, *map(str, cores)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=without_ray_settings(),
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address, "no Ray"
            yield address
        finally:
            process.stdin.close()
            process.wait(patient(60))
