"""The supervisor's parts on real Ray processes with roles that do nothing, and a whole run that must fail."""

import errno
import os
import signal
import threading
import time

import psutil
import pytest
import ray

from actors.episodes import Episode
from deploy.fleet import actor_fleet, launch, learner_slot, supervisor
from deploy.fleet.actor_fleet import ActorFleet
from deploy.fleet.learner_slot import LearnerSlot
from deploy.fleet.processes import handles
from deploy.fleet.processes.handles import RoleHandle
from deploy.fleet.reporting import telemetry
from deploy.fleet.run_state import FleetState
from deploy.fleet.supervisor import Supervisor
from deploy.run.folder import RunFolder
from learner.errors import LearnerError
from replay.errors import ServersStopped
from tests.helpers.deadline import patient, until
from tests.helpers.runs.catch_runs import catch_config
from tests.helpers.runs.processes import is_alive

EPISODE = Episode(1.0, 6, 0, 0.01)


class Idle:
    """A role that only waits to be stopped."""

    def __init__(self, name: str, obeys: bool = True) -> None:
        self.stopped = threading.Event()
        self.name, self.obeys = name, obeys
        self.notes = [f"{name} has a note"]

    def run(self):
        while not (self.stopped.wait(0.02) and self.obeys):
            pass
        return self.heartbeat() | {"episodes": [EPISODE]}

    def heartbeat(self):
        notes, self.notes = self.notes, []
        return {
            "pid": os.getpid(),
            "ready": self.name != "restoring",
            "metrics": {"name": self.name, "actors/refused_rewards": 2.0 + self.stopped.is_set()},
            "episodes": [],
            "notes": notes,
        }

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
            metrics["name"] for metrics in fleet.report().at_work
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
    assert fleet.report().totals == {"actors/restarts": 1.0, "actors/refused_rewards": 3 * 2.0}
    assert any("actor 1 (incarnation 0) is gone: its process died" in note for note in notes)


def test_scaling_down_lets_the_surplus_finish_and_up_again_takes_new_incarnations(fleet):
    fleet, state, _ = fleet
    state.target = 2
    step_until(fleet, {"0.0", "1.0"})
    state.target = 1
    episodes = fleet.step(0)
    until(lambda: episodes.extend(fleet.step(0)) or len(fleet.rows()) == 1, "the second actor's leaving")
    assert episodes == [EPISODE._replace(actor_slot=1)], "what a leaving actor told last is counted"
    assert fleet.report().totals["actors/refused_rewards"] == 2.0 + 3.0, "and so are its counters"
    assert fleet.restarts == 0
    state.target = 2
    step_until(fleet, {"0.0", "1.1"})
    assert fleet.report().totals["actors/refused_rewards"] == 2.0 + 3.0 + 2.0
    assert fleet.drain(5.0) == [EPISODE._replace(actor_slot=slot) for slot in (0, 1)]
    assert fleet.report().totals == {"actors/restarts": 0.0, "actors/refused_rewards": 3 * 3.0}
    assert fleet.report().at_work == []


def test_draining_ends_even_an_actor_that_does_not_listen(shared_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(actor_fleet, "start_actor", lambda *_: start(Idle, "deaf", False))
    state = FleetState(RunFolder(tmp_path))
    fleet = ActorFleet(None, state, node_id=None, note=lambda text: None)
    state.target = 1
    step_until(fleet, {"deaf"})
    process = psutil.Process(fleet.rows()[0]["pid"])
    fleet.drain(0.5)
    until(lambda: not is_alive(process), "its end", 10)
    assert not fleet.rows()


@pytest.mark.parametrize(("kind", "starts"), [("hopeless", 1), ("unlucky", 5)])
def test_a_learner_that_cannot_run_is_given_up(shared_ray, monkeypatch, kind, starts):
    started = []

    def start_learner(*_):
        started.append(1)
        return start(Failing, kind)

    monkeypatch.setattr(learner_slot, "start_learner", start_learner)
    monkeypatch.setattr("deploy.fleet.scaling.BACKOFF_FIRST", 0.01)
    slot = LearnerSlot(None, place="DEFAULT", num_gpus=0, dead=set, note=lambda text: None)
    until(lambda: slot.step() or bool(slot.outcome), "giving up", 20 * starts)
    assert slot.outcome == "failed"
    assert f"{kind} one" in slot.message
    assert "\n" not in slot.message
    assert len(started) == starts


@pytest.fixture
def slot_of(shared_ray, monkeypatch):
    """Makes (slot, its notes, calls while it waits) whose learner is an `Idle` of that name."""

    def make(name: str, obeys: bool) -> tuple[LearnerSlot, list[str], list[int]]:
        monkeypatch.setattr(learner_slot, "start_learner", lambda *_: start(Idle, name, obeys))
        notes: list[str] = []
        slot = LearnerSlot(None, place="DEFAULT", num_gpus=0, dead=set, note=notes.append)
        until(lambda: slot.step() or bool(notes), "the first heartbeat")
        assert notes == [f"{name} has a note"], "what a learner tells reaches people, once"
        return slot, notes, []

    return make


def test_a_learner_that_restores_does_not_hold_up_the_end(slot_of, monkeypatch):
    monkeypatch.setattr(learner_slot, "RESTORING_SECONDS", 0.5)
    slot, notes, calls = slot_of("restoring", False)
    process = psutil.Process(slot.pid)
    began = time.monotonic()
    slot.stop(patient(120), lambda: calls.append(1))
    assert time.monotonic() - began < patient(10)
    assert calls, "whoever waits can tell that it lives"
    assert "stopped before the learner was ready: no new checkpoint" in notes[1]
    until(lambda: not is_alive(process), "its end", 10)


def test_a_learner_that_saves_is_waited_for(slot_of, monkeypatch):
    monkeypatch.setattr(learner_slot, "RESTORING_SECONDS", 0.0)
    slot, notes, _ = slot_of("saving", True)
    assert slot.stop(patient(120))["name"] == "saving"
    assert len(notes) == 1


def test_an_actor_may_wait_for_a_free_core_as_long_as_it_takes(shared_ray, monkeypatch):
    monkeypatch.setattr(handles, "SILENT_SECONDS", 0.2)
    actor = ray.remote(Idle).options(num_cpus=10**6, max_concurrency=4).remote("waiting")
    handle = RoleHandle(actor, actor.run.remote())
    began = time.monotonic()
    until(lambda: handle.poll() or time.monotonic() - began > 1.0, "a second")
    assert handle.end is None
    handle.kill()


@pytest.fixture
def full(tmp_path, monkeypatch, request):
    """(the supervisor of a run that was told to stop before its servers, its folder, an event that makes room
    for its status, what was refused until then); with True as its parameter, the run got SIGTERM."""
    folder, room, plain = RunFolder.create(catch_config(tmp_path)), threading.Event(), RunFolder.write_json
    refused = []

    def write(own, name, document):
        if not room.is_set():
            refused.append(document["state"])
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(own, name, document)

    def stopped(run, _):
        run._terminated = getattr(request, "param", False)
        raise ServersStopped

    monkeypatch.setattr(RunFolder, "write_json", write)
    monkeypatch.setattr(telemetry, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "log_to", lambda *_: None)
    monkeypatch.setattr(supervisor.signal, "signal", lambda *_: None)
    monkeypatch.setattr(Supervisor, "_start_servers", stopped)
    left = threading.Event()
    monkeypatch.setattr(Supervisor, "_leave", lambda _: left.set())
    yield Supervisor(str(folder.path)), folder, room, refused
    room.set()
    until(left.is_set, "its end")


def test_the_last_status_waits_for_room_on_the_disk(full):
    """Whoever asks hears of no end before it is on disk: a command would end the run's Ray."""
    run, folder, room, _ = full
    until(lambda: any("cannot be written" in note for note in run.status()["notes"]), "a refusal")
    until(lambda: run.status()["state"] == "stopping", "the end of everything else")
    assert folder.is_supervised(), "nobody resumes it meanwhile"
    at_end = []
    publish = run._publish_end
    run._publish_end = lambda *end: (
        at_end.extend([folder.is_supervised(), folder.is_at_work()]),
        publish(*end),
    )
    room.set()
    until(lambda: run.status()["state"] == "stopped", "the last status")
    assert at_end == [False, True], "whoever resumes gets the lock, and waits for the last status"
    assert folder.read_json("status.json", {})["state"] == "stopped"
    assert not folder.is_supervised()


@pytest.mark.parametrize(
    ("full", "seconds", "state"),
    [(False, "LAST_STATUS_SECONDS", "stopping"), (True, "TERMINATED_STATUS_SECONDS", "stopped")],
    indirect=["full"],
)
def test_a_disk_that_stays_full_is_given_up_at_last(full, monkeypatch, seconds, state):
    run, folder, _, refused = full
    until(lambda: refused.count(state) > 3, "attempts")
    assert run.status()["state"] == "stopping"
    monkeypatch.setattr(supervisor, seconds, 0.0)
    until(lambda: run.status()["state"] == "stopped", "its giving up")
    assert folder.read_json("status.json", None) is None


def test_sigterm_cuts_the_waiting_short(full, monkeypatch):
    run, _, _, refused = full
    until(lambda: refused.count("stopping") > 3, "attempts")
    monkeypatch.setattr(supervisor, "TERMINATED_STATUS_SECONDS", 0.0)
    run._on_sigterm(signal.SIGTERM, None)
    until(lambda: run.status()["state"] == "stopped", "its giving up")


def test_a_run_that_cannot_be_says_why_and_leaves_nothing(shared_ray, tmp_path):
    config = catch_config(
        tmp_path, environment__env="tests.helpers.catch:missing", run__ray_address=shared_ray
    )
    folder = RunFolder.create(config)
    client = launch(folder.load_config(), folder, resume=False)
    status = client.wait_finished(patient(60))
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
