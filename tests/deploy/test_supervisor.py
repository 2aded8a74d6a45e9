"""The supervisor's parts on real Ray processes with roles that do nothing, and a whole run that must fail."""

import os
import signal
import threading

import psutil
import pytest
import ray

from deploy.fleet import actor_fleet, handles, launch, learner_seat
from deploy.fleet.actor_fleet import ActorFleet
from deploy.fleet.handles import RoleHandle
from deploy.fleet.learner_seat import LearnerSeat
from deploy.fleet.run_state import FleetState
from deploy.run_folder import RunFolder
from learner.errors import LearnerError
from tests.helpers.deadline import until
from tests.helpers.runs import catch_config


class Idle:
    """A role that only waits to be stopped."""

    def __init__(self, name: str, obeys: bool = True) -> None:
        self.stopped = threading.Event()
        self.name, self.obeys = name, obeys

    def run(self):
        while not (self.stopped.wait(0.02) and self.obeys):
            pass
        return [(1.0, 6)]

    def heartbeat(self):
        return {"pid": os.getpid(), "ready": True, "metrics": {"name": self.name}, "episodes": []}

    def stop(self):
        self.stopped.set()

    def mark_dead(self, incarnations):
        pass


class Failing(Idle):
    """A role that cannot run."""

    def run(self):
        raise {"hopeless": LearnerError, "unlucky": RuntimeError}[self.name](f"{self.name} one")


def start(cls: type, *arguments) -> RoleHandle:
    actor = ray.remote(cls).options(num_cpus=0, max_concurrency=handles.CONCURRENCY).remote(*arguments)
    return RoleHandle(actor, actor.run.remote())


@pytest.fixture
def fleet(shared_ray, tmp_path, monkeypatch):
    """(fleet, its state, notes): actors are `Idle`, and waiting times between starts are short."""
    monkeypatch.setattr(
        actor_fleet, "start_actor", lambda a, slot, n, steps, node: start(Idle, f"{slot}.{n}")
    )
    notes: list[str] = []
    state = FleetState(RunFolder(tmp_path))
    fleet = ActorFleet(None, state, node_id=None, note=notes.append)
    yield fleet, state, notes
    fleet.drain(5.0)


def step_until(fleet: ActorFleet, names: set[str]) -> None:
    def look() -> bool:
        fleet.step(0)
        return {row["state"] for row in fleet.rows()} <= {"running"} and names == {
            metrics["name"] for metrics in fleet.metrics()
        }

    until(look, f"actors {names}")


def test_a_killed_actor_is_replaced_by_a_new_incarnation(fleet):
    fleet, state, notes = fleet
    state.target = 2
    step_until(fleet, {"0.0", "1.0"})
    os.kill(fleet.rows()[1]["pid"], signal.SIGKILL)
    step_until(fleet, {"0.0", "1.1"})
    assert fleet.new_dead == {(1, 0)}
    assert fleet.restarts == 1
    assert any("actor 1 (incarnation 0) is gone: its process died" in note for note in notes)


def test_scaling_down_lets_the_surplus_finish_and_up_again_takes_new_incarnations(fleet):
    fleet, state, _ = fleet
    state.target = 2
    step_until(fleet, {"0.0", "1.0"})
    state.target = 1
    episodes = fleet.step(0)
    until(lambda: episodes.extend(fleet.step(0)) or len(fleet.rows()) == 1, "the second actor's leaving")
    assert episodes == [(1.0, 6)], "what a leaving actor told last is counted"
    assert fleet.restarts == 0
    state.target = 2
    step_until(fleet, {"0.0", "1.1"})


def test_draining_ends_even_an_actor_that_does_not_listen(shared_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(actor_fleet, "start_actor", lambda *_: start(Idle, "deaf", False))
    state = FleetState(RunFolder(tmp_path))
    fleet = ActorFleet(None, state, node_id=None, note=lambda text: None)
    state.target = 1
    step_until(fleet, {"deaf"})
    process = psutil.Process(fleet.rows()[0]["pid"])
    fleet.drain(0.5)
    until(lambda: not process.is_running() or process.status() == "zombie", "its end", 10)
    assert not fleet.rows()


@pytest.mark.parametrize(("kind", "starts"), [("hopeless", 1), ("unlucky", 5)])
def test_a_learner_that_cannot_run_is_given_up(shared_ray, monkeypatch, kind, starts):
    started = []

    def start_learner(*_):
        started.append(1)
        return start(Failing, kind)

    monkeypatch.setattr(learner_seat, "start_learner", start_learner)
    monkeypatch.setattr("deploy.fleet.scaling.BACKOFF_FIRST", 0.01)
    seat = LearnerSeat(None, node_id="", num_gpus=0, dead=set, note=lambda text: None)
    until(lambda: seat.step() or bool(seat.outcome), "giving up")
    assert seat.outcome == "failed"
    assert f"{kind} one" in seat.message
    assert "\n" not in seat.message
    assert len(started) == starts


def test_a_run_that_cannot_be_says_why_and_leaves_nothing(shared_ray, tmp_path):
    config = catch_config(
        tmp_path, environment__env="tests.helpers.catch:missing", run__ray_address=shared_ray
    )
    folder = RunFolder.create(config)
    client = launch(folder.load_config(), folder, resume=False)
    status = client.wait_finished(60)
    assert status["state"] == "failed"
    assert "--environment.env" in status["message"]
    assert "\n" not in status["message"]
    assert folder.read_json("status.json", {})["state"] == "failed"
    client.shutdown()
    with folder.lock():
        pass
    here = str(folder.path)
    until(
        lambda: not any(here in " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])),
        here,
    )
    with pytest.raises(ValueError, match="Failed to look up"):
        ray.get_actor(f"supervisor:{folder.path}", "apexpert")
