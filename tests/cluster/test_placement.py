"""Where a run's learner goes on a cluster, and what is said when it cannot go anywhere."""

import pytest

from tests.helpers.cluster.machine import APEXPERT
from tests.helpers.cluster.network import Network
from tests.helpers.cluster.runs import (
    ACTOR,
    LEARNER,
    SECONDS,
    STORE,
    SUPERVISOR,
    SharedRun,
    stop,
    train_words,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


def test_the_learner_goes_to_the_gpu_and_a_head_without_cores_will_do(network: Network) -> None:
    """The command is on the head, which KubeRay recommends to give no core."""
    head, node = network.machine("head"), network.machine("gpu")
    address = head.start_ray(head=True, num_cpus=0)
    node.start_ray(address=address, num_cpus=2, num_gpus=1)
    run = SharedRun(network)
    done = head.apexpert(
        *train_words(network, address, learner__device="auto", run__detach=True), seconds=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    status = run.learns(20)
    assert {word: run.where(word) for word in (LEARNER, SUPERVISOR, STORE, ACTOR)} == {
        LEARNER: ["gpu"], SUPERVISOR: ["gpu"], STORE: ["gpu"], ACTOR: ["gpu"],
    }  # fmt: skip
    assert "torch finds none: it learns on the CPU" in " ".join(status["notes"])
    assert stop(head, run)["state"] == "stopped"
    # The group goes with the run: both cores and the GPU are free again.
    free = "import ray, sys; ray.init(sys.argv[1], logging_level='ERROR'); print(ray.available_resources())"
    said = head.python(free, address)
    assert "'GPU': 1.0" in said
    assert "'CPU': 2.0" in said


def test_a_learner_without_room_says_what_it_waits_for_and_starts_when_a_node_joins(network: Network) -> None:
    head, node = network.machine("head"), network.machine("late")
    address = head.start_ray(head=True, num_cpus=1)
    run = SharedRun(network)
    words = train_words(network, address, learner__cpus=2, run__detach=True)
    with head.popen(APEXPERT, *words) as command:
        said = command.prints("the learner waits for", SECONDS)
        line = (
            "the learner waits for a node with 2 free cores;"
            f" the largest free one, {head.address}, has 1 free core"
        )
        assert said.count(line) == 1
        assert run.until(lambda status: status.get("message"), "the reason")["message"] == line
        assert run.status()["state"] == "starting"
        node.start_ray(address=address, num_cpus=3)
        run.learns(5)
        assert command.wait() == 0
    assert (run.where(LEARNER), run.where(SUPERVISOR)) == (["late"], ["late"])
    stop(head, run)


def test_a_folder_that_the_learners_node_does_not_have_is_refused_in_one_line(network: Network) -> None:
    head, node = network.machine("head"), network.machine("apart", shared=False)
    address = head.start_ray(head=True, num_cpus=2)
    node.start_ray(address=address, num_cpus=2, num_gpus=1)
    words = train_words(network, address, learner__device="auto", run__detach=True)
    refused = head.apexpert(*words, seconds=SECONDS)
    assert refused.returncode == 2
    (error,) = (line for line in refused.stderr.splitlines(keepends=True) if not line.startswith("note: "))
    assert error == (
        f"apexpert: --runs-dir {network.shared}/runs: node {node.address}, where the learner would run, does"
        " not have this folder; put it on storage that all nodes share, or keep the learner on this node with"
        " --no-failover\n"
    )
    run = SharedRun(network)
    assert not run.folder.path.exists()
    done = head.apexpert(*words, "--no-failover", seconds=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    run.learns(5)
    assert run.where(LEARNER) == ["head"]
    stop(head, run)
