"""What a run's core asks of a cluster, and what is said while it waits; without a Ray."""

from typing import Any

import pytest

from deploy.fleet.errors import WrongFlag
from deploy.fleet.ray import placement
from deploy.fleet.ray.placement import JOB_VARIABLE, bundle_for, why_waiting
from deploy.run.config import Config, with_values


def node(number: int, **resources: float) -> dict[str, Any]:
    """A node as Ray lists it."""
    return {"NodeID": f"n{number}", "NodeManagerAddress": f"10.0.0.{number}", "Resources": resources}


def config(**changes: Any) -> Config:
    return with_values(Config(), **({"run__ray_address": "10.0.0.1:6379"} | changes))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the cluster's nodes, of which the command is on the first, and what is free on them."""

    def nodes(*nodes: dict[str, Any], free: tuple[dict[str, float], ...] = ()) -> None:
        monkeypatch.delenv(JOB_VARIABLE, raising=False)
        monkeypatch.setattr(placement, "alive_nodes", lambda: list(nodes))
        monkeypatch.setattr(placement, "here", lambda: "n1")
        monkeypatch.setattr(
            placement, "available_resources", lambda: {f"n{i}": has for i, has in enumerate(free, 1)}
        )

    return nodes


HEAD, GPU, CORES = node(1), node(2, CPU=8.0, GPU=1.0), node(3, CPU=64.0)
MEANT = node(4, CPU=4.0, learner=1.0)


@pytest.mark.parametrize(
    ("nodes", "changes", "bundle"),
    [
        ([HEAD, CORES], {}, {"CPU": 1.0}),
        ([HEAD, CORES], {"learner__cpus": 4}, {"CPU": 4.0}),
        ([HEAD, CORES, GPU], {}, {"CPU": 1.0, "GPU": 1.0}),
        ([HEAD, CORES, GPU], {"learner__device": "cpu"}, {"CPU": 1.0}),
        ([HEAD, CORES], {"learner__device": "cuda"}, {"CPU": 1.0, "GPU": 1.0}),
        ([HEAD, CORES, GPU, MEANT], {}, {"CPU": 1.0, "learner": 1.0}),
        ([HEAD, GPU], {"run__failover": False}, {"CPU": 1.0, "node:10.0.0.1": 0.001}),
        (
            [GPU | {"NodeID": "n1"}],
            {"run__failover": False},
            {"CPU": 1.0, "GPU": 1.0, "node:10.0.0.2": 0.001},
        ),
        ([GPU], {"run__ray_address": "", "learner__cpus": 6}, {"CPU": 1.0, "GPU": 1.0}),
        ([CORES], {"run__ray_address": ""}, {"CPU": 1.0}),
    ],
)
def test_the_core_asks_for_cores_and_for_a_gpu_where_there_is_one(
    cluster: Any, nodes: list[dict[str, Any]], changes: dict[str, Any], bundle: dict[str, float]
) -> None:
    cluster(*nodes)
    assert bundle_for(config(**changes)) == bundle


def test_the_line_names_the_node_with_the_most_of_what_is_scarce(cluster: Any) -> None:
    cluster(HEAD, GPU, CORES, free=({}, {"CPU": 2.0, "GPU": 1.0}, {"CPU": 60.0}))
    assert why_waiting({"CPU": 4.0, "GPU": 1.0}) == (
        "the learner waits for a node with 4 free cores and 1 free GPU;"
        " the largest free one, 10.0.0.2, has 2 free cores and 1 free GPU"
    )
    assert why_waiting({"CPU": 80.0}).endswith("the largest free one, 10.0.0.3, has 60 free cores")


def test_the_line_says_where_the_gpus_are(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entrypoint of a Ray Job may hold the GPU that its own learner waits for."""
    cluster(HEAD, GPU, free=({}, {"CPU": 8.0}))
    taken = why_waiting({"CPU": 1.0, "GPU": 1.0})
    assert taken.endswith("10.0.0.2, has 8 free cores and 0 free GPUs; all GPUs (1) are taken")
    monkeypatch.setenv(JOB_VARIABLE, "{}")
    hint = ", one by this job's entrypoint if it has --entrypoint-num-gpus: submit without it"
    assert why_waiting({"CPU": 1.0, "GPU": 1.0}) == taken + hint
    cluster(HEAD, CORES, free=({}, {"CPU": 64.0}))
    assert why_waiting({"CPU": 1.0, "GPU": 1.0}).endswith("; no node has a GPU")
    cluster()
    assert why_waiting({"CPU": 1.0}) == "the learner waits for a node with 1 free core; no node is there"


def test_a_ray_of_ones_own_without_the_gpu_that_is_needed_is_refused(cluster: Any) -> None:
    """No node will join that has one."""
    cluster(CORES)
    with pytest.raises(WrongFlag, match=r"^--learner\.device cuda: Ray finds no GPU here$"):
        bundle_for(config(run__ray_address="", learner__device="cuda"))
