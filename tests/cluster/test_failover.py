"""Nodes of a run die, or are cut off: it goes on by itself, and nothing that was acknowledged is lost."""

import time
from typing import Any

import pytest

from tests.helpers.cluster.machine import APEXPERT, Machine
from tests.helpers.cluster.network import Network
from tests.helpers.cluster.runs import ACTOR, LEARNER, SUPERVISOR, SharedRun, stop, train_words
from tests.helpers.runs.catch_runs import metric

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]
MOVE_SECONDS = 300.0
"""Five times the minute that is promised."""


def test_the_run_goes_on_where_another_node_fits_and_waits_where_none_does(network: Network) -> None:
    """The command, which shows the run, is on a head without cores."""
    head, first, second = (network.machine(name) for name in ("head", "first", "second"))
    address = head.start_ray(head=True, num_cpus=0)
    first.start_ray(address=address, num_cpus=2)
    run = SharedRun(network)
    with head.popen(APEXPERT, *train_words(network, address)) as command:
        run.learns(150)
        second.start_ray(address=address, num_cpus=2)
        print(f"the run went on on another node after {moved(run, first, 'second'):.0f} s")
        assert "resuming at" in run.folder.log_path.read_text()
        assert command.alive

        updates = metric(run.status(), "progress/updates")
        second.kill()
        waits = "the learner waits for a node with 1 free core"
        command.prints(waits, MOVE_SECONDS)
        said = head.apexpert("status", str(run.folder.path)).stdout
        third = network.machine("third")
        third.start_ray(address=address, num_cpus=2)
        began = time.monotonic()
        run.learns(updates + 20, MOVE_SECONDS)
        print(f"the run went on on the node that joined after {time.monotonic() - began:.0f} s")
        assert waits in said, said
        assert run.where(LEARNER) == run.where(SUPERVISOR) == ["third"]
        nothing_is_lost(run)
        stop(head, run)
        assert command.wait() == 0, command.printed()


def moved(run: SharedRun, machine: Machine, to: str) -> float:
    """Kill the learner's machine; seconds until the run learns on another one beyond what it had done."""
    assert run.where(LEARNER) == [machine.name]
    updates = metric(run.status(), "progress/updates")
    saved = run.folder.counts_of_newest_checkpoint()["progress/updates"]
    machine.kill()
    began = time.monotonic()
    run.until(lambda _: run.where(LEARNER) == [to], f"the learner on {to}", MOVE_SECONDS)
    status = run.learns(updates + 1, MOVE_SECONDS)
    assert metric(status, "progress/updates") > saved
    return time.monotonic() - began


def nothing_is_lost(run: SharedRun) -> None:
    """The replay has, or has evicted, all that its shards have ever acknowledged (docs/faults.md)."""
    status: dict[str, Any] = run.learns(0)
    lost = {name: metric(status, f"replay/{name}") for name in ("lost", "unread", "missing", "parked")}
    assert set(lost.values()) == {0.0}, lost


@pytest.mark.parametrize("fault", ["killed", "cut off"])
def test_actors_spread_over_nodes_that_join_and_those_of_a_lost_node_are_replaced(
    network: Network, fault: str
) -> None:
    """The cluster has one node when the run starts. A node that is cut off tells nobody."""
    head, first, second = (network.machine(name) for name in ("head", "first", "second"))
    address = head.start_ray(head=True, num_cpus=2)
    run = SharedRun(network)
    words = train_words(network, address, run__detach=True, actors__num_actors=3)
    done = head.apexpert(*words, seconds=300)
    assert done.returncode == 0, done.stdout + done.stderr
    run.learns(5)
    assert run.where(ACTOR) == ["head"]
    first.start_ray(address=address, num_cpus=2)
    second.start_ray(address=address, num_cpus=2)
    actors_at_work(run, 3)
    assert run.where(ACTOR)[0] == "head"
    victim = next(machine for machine in (first, second) if machine.name in run.where(ACTOR))
    victim.kill() if fault == "killed" else victim.cut()
    began = time.monotonic()
    run.until(lambda status: status["metrics"].get("actors/restarts", 0) >= 1, "the actor is missed", 400)
    actors_at_work(run, 3)
    print(f"node {fault}: all actors were at work again after {time.monotonic() - began:.0f} s")
    assert fault == "cut off" or victim.name not in run.where(ACTOR)
    nothing_is_lost(run)
    stop(head, run)


def actors_at_work(run: SharedRun, number: int) -> None:
    run.until(
        lambda status: sum(row["state"] == "running" for row in status["actors"]) == number,
        f"{number} actors at work",
        300,
    )
