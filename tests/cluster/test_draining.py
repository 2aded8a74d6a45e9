"""Nodes that get a preemption notice."""

import pytest

from tests.helpers.cluster.network import Network
from tests.helpers.cluster.runs import ACTOR, SharedRun, stop, train_words
from tests.helpers.runs.catch_runs import metric

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


def test_actors_leave_a_node_that_drains_with_all_they_have_and_the_learner_saves(network: Network) -> None:
    """The head has the learner and room for one actor, the second node two, the third comes later."""
    head, drained = network.machine("head"), network.machine("drained")
    address = head.start_ray(head=True, num_cpus=2)
    drained.start_ray(address=address, num_cpus=2)
    run = SharedRun(network)
    words = train_words(network, address, run__detach=True, actors__num_actors=3, run__total_env_steps=10**7)
    done = head.apexpert(*words, seconds=300)
    assert done.returncode == 0, done.stdout + done.stderr
    run.until(lambda status: sorted(run.where(ACTOR)) == ["drained", "drained", "head"], "three actors")
    run.learns(20)
    spare = network.machine("spare")
    spare.start_ray(address=address, num_cpus=2)
    drained.drain()
    run.until(lambda status: sorted(run.where(ACTOR)) == ["head", "spare", "spare"], "actors elsewhere")
    status = run.until(lambda status: metric(status, "actors/alive") == 3, "three actors at work")
    notes = " ".join(status["notes"])
    assert f"node {drained.node_id()[:8]} is to end: its 2 actors leave first" in notes
    assert "has left" in notes
    # They wrote their open segments: none was counted dead, and nothing that was written is missing.
    assert metric(status, "actors/restarts") == metric(status, "replay/lost") == 0.0
    before = metric(status, "learner/checkpoints")
    head.drain()
    run.until(lambda status: metric(status, "learner/checkpoints") > before, "a checkpoint")
    assert "a checkpoint is written at once" in " ".join(run.status()["notes"])
    assert stop(head, run)["state"] == "stopped"
