"""Actors on a node that ends: they are told to leave, and others take their slots."""

from types import SimpleNamespace

import pytest

from deploy.fleet import actor_fleet
from deploy.fleet.actor_fleet import ActorFleet
from deploy.fleet.processes.handles import End
from deploy.fleet.run_state import FleetState
from deploy.run.folder import RunFolder


class FakeActor(SimpleNamespace):
    """A handle on an actor that has not answered yet; it leaves when told to."""

    def __init__(self):
        super().__init__(report=None, ready=False, end=None, metrics={})

    def poll(self):
        return []

    def answer(self, node):
        self.report, self.ready = {"node": node, "pid": 1}, True

    def stop(self):
        self.end = End(answer={})

    def kill(self):
        pass


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Makes a fleet of two on any node or on one; also what was started, by slot and incarnation."""

    def make(node_id=None):
        started = {}

        def start(_, slot, incarnation, *rest):
            return started.setdefault((slot, incarnation), FakeActor())

        monkeypatch.setattr(actor_fleet, "start_actor", start)
        state = FleetState(RunFolder(tmp_path))
        state.target = 2
        return ActorFleet(None, state, node_id=node_id, note=lambda text: None), started

    return make


def test_actors_leave_a_node_that_ends_and_others_take_their_slots(scene):
    fleet, started = scene()
    fleet.step(0)
    assert (fleet.unplaced(), fleet.unplaced(60.0)) == (2, 0)
    started[0, 0].answer("stays")
    assert fleet.leave_nodes({"ends"}) == 0, "nobody knows yet where the other one is"
    started[1, 0].answer("ends")
    assert fleet.unplaced() == 0
    assert fleet.leave_nodes({"ends", "another"}) == 1
    assert [row["state"] for row in fleet.rows()] == ["running", "leaving"]
    fleet.step(0)
    assert set(started) == {(0, 0), (1, 0), (1, 1)}
    assert fleet.new_dead == {(1, 0)}
    assert fleet.restarts == 0


def test_actors_that_are_bound_to_the_node_stay(scene):
    fleet, started = scene("ends")
    fleet.step(0)
    for actor in started.values():
        actor.answer("ends")
    assert fleet.leave_nodes({"ends"}) == 0
