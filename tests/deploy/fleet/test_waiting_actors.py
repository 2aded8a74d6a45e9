"""What is told of an actor that does not start."""

from types import SimpleNamespace

import pytest

from deploy.fleet import actor_fleet
from deploy.fleet.actor_fleet import ActorFleet
from deploy.fleet.ray import nodes
from deploy.fleet.run_state import FleetState
from deploy.run.folder import RunFolder


@pytest.mark.parametrize(
    ("report", "free", "why"),
    [
        (None, False, "Ray has no free core for it"),
        (None, True, "Ray has a core for it, and its machine is slow"),
        ({"ready": False}, False, "Ray has a core for it, and its machine is slow"),
    ],
)
def test_why_an_actor_waits_is_what_ray_says(tmp_path, monkeypatch, report, free, why):
    waiting = SimpleNamespace(poll=list, ready=False, end=None, report=report, metrics={})
    monkeypatch.setattr(actor_fleet, "start_actor", lambda *_: waiting)
    monkeypatch.setattr(actor_fleet, "has_free_core", lambda node: free)
    monkeypatch.setattr(actor_fleet, "START_SECONDS", -1.0)
    notes: list[str] = []
    state = FleetState(RunFolder(tmp_path))
    state.target = 1
    fleet = ActorFleet(None, state, node_id=None, note=notes.append)
    for _ in range(3):
        fleet.step(0)
    assert notes[1:] == [f"actor 0 has waited -1 s to start: {why}"]


def test_a_ray_of_our_own_has_free_cores(shared_ray):
    assert nodes.has_free_core(None)
    assert nodes.has_free_core(nodes.here())
    assert not nodes.has_free_core("another")
    assert nodes.free_cores(None) == nodes.free_cores(nodes.here()) > 1_000
    assert nodes.free_cores("another") == 0


def test_cores_for_actors_leave_out_the_learners_and_nodes_that_end(monkeypatch):
    cores = {"head": 0.0, "gpu": 4.0, "ends": 8.0}
    rows = [{"NodeID": name, "Alive": True, "Resources": {"CPU": cpus}} for name, cpus in cores.items()]
    monkeypatch.setattr(nodes, "alive_nodes", lambda: rows)
    monkeypatch.setattr(nodes, "available_resources", lambda: {"gpu": {"CPU": 3.5}, "ends": {"CPU": 8.0}})
    monkeypatch.setattr(nodes, "draining_nodes", lambda: {"ends": 0})
    assert nodes.free_cores(None) == nodes.free_cores("gpu") == 3
    monkeypatch.setattr(nodes, "available_resources", lambda: {"gpu": {"CPU": 4.0}})
    assert nodes.free_cores(None) == 3, "the learner's core has not been given away yet"
    assert nodes.free_cores("head") == 0
