"""A Ray that does not let us in: the true reason, in one line."""

import platform
import secrets
from pathlib import Path

import pytest
import ray

from tests.helpers.cluster.network import Network
from tests.helpers.cluster.runs import SECONDS, train_words

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

ANOTHER_VERSION = """
import json, sys
import ray
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

ray.init(sys.argv[1], logging_level="ERROR")
metadata = json.loads(_internal_kv_get(b"CLUSTER_METADATA", namespace=b"cluster"))
metadata |= {"ray_version": "2.0.1", "python_version": "3.8.2"}
_internal_kv_put(b"CLUSTER_METADATA", json.dumps(metadata).encode(), overwrite=True, namespace=b"cluster")
"""


def test_a_wrong_token_and_another_version_are_told_as_such(network: Network) -> None:
    """The version of a real Ray is changed in its own record, which is what Ray compares with."""
    head = network.machine("head")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    address = head.start_ray(head=True, num_cpus=1, env=token)
    words = train_words(network, address)
    for environment in (token | {"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}):
        refused = head.apexpert(*words, env=environment, seconds=SECONDS)
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert refused.stderr.startswith(
            f"apexpert: --ray-address {address}: this Ray refuses us without its token"
        )
        assert refused.stderr.count("\n") == 1
    head.python(ANOTHER_VERSION, address)
    refused = head.apexpert(*words, seconds=SECONDS)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert refused.stderr == (
        f"apexpert: --ray-address {address}: there is Ray 2.0.1 with Python 3.8.2, and here"
        f" Ray {ray.__version__} with Python {platform.python_version()}; they must be the same\n"
    )
    assert not Path(network.shared / "runs" / "r").exists()
