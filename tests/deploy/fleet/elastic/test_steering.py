"""A run's number of actors: chosen at the start, changed on the way, kept by resume."""

import itertools
import json
import threading
import time
import tomllib
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from actors.config import ActorRange
from deploy.cli.run.config_file import to_toml
from deploy.fleet.elastic import steering as steering_module
from deploy.fleet.elastic.draining import LOOK_SECONDS, Draining
from deploy.fleet.elastic.policy import PERIOD_SECONDS
from deploy.fleet.elastic.room import Background
from deploy.fleet.elastic.steering import Steering
from deploy.fleet.reporting.actor_metrics import FleetReport
from deploy.fleet.run_state import FleetState
from deploy.run.config import Config, ConfigError, from_json, to_json, with_values
from deploy.run.folder import RunFolder


@dataclass
class FakeRoom:
    """So many cores for actors, at the start and later."""

    cores: int
    taken: int = 0
    """Actors that have no core, though they were started long ago."""

    def at_start(self):
        return self.cores

    def look(self):
        return self.cores, max(self.cores, 1)


@dataclass
class Scene:
    """A run under steering whose minutes pass as told."""

    state: FleetState
    room: FakeRoom
    monkeypatch: pytest.MonkeyPatch
    notes: list[str] = field(default_factory=list)
    now: float = 1_000.0
    draining: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        clock = SimpleNamespace(monotonic=lambda: self.now)
        self.monkeypatch.setattr(steering_module, "time", clock)
        self.monkeypatch.setattr(
            steering_module, "Draining", lambda node, note: SimpleNamespace(step=lambda *_: None)
        )
        config = with_values(Config(), run__name="r", learner__update_period=4)
        self.steering = Steering(config, self.state, self.room, "node", self.notes.append)

    def minute(self, held_back=0.0, learner_waits=0.0, *, updates=1.0, alive=None):
        """Pass a minute and a second with these shares; returns the target then."""
        learner = SimpleNamespace(
            ready=True, metrics={"progress/updates": updates, "learner/waiting_share": learner_waits}
        )
        for _ in range(int(PERIOD_SECONDS) + 1):
            self.now += 1.0
            work = {"actors/waiting_share": held_back, "speed/actor_steps_per_s": 100.0}
            alive_now = self.state.target if alive is None else alive
            report = FleetReport(self.state.target, alive_now, at_work=[work] * alive_now)
            self.steering.step(learner, SimpleNamespace(), report)
        return self.state.target


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Makes scenes of a folder that stays."""

    def make(asked=None, cores=12):
        state = FleetState(RunFolder(tmp_path))
        if asked is not None:
            state.ask(asked)
        return Scene(state, FakeRoom(cores), monkeypatch)

    return make


@pytest.mark.parametrize(
    ("asked", "cores", "first"),
    [
        ("auto", 1, 1),
        ("auto", 12, 12),
        ("auto:8-200", 1, 8),
        ("auto:8-200", 64, 64),
        ("auto:1-3", 12, 3),
        (5, 2, 5),
    ],
)
def test_the_first_actors_are_as_many_as_cores_within_the_range(scene, asked, cores, first):
    assert scene(asked, cores).state.target == first


def test_a_range_follows_who_waits_and_says_why(scene):
    run = scene("auto:8-15")
    assert run.minute(learner_waits=0.5) == 15
    assert run.notes[-1] == "actors 12 -> 15 (auto:8-15): the learner waits for them 50 % of the time"
    assert "3 more start" in run.notes[-2]
    assert run.minute(learner_waits=0.5) == 15
    assert [run.minute(held_back=0.5) for _ in range(8)][-1] == 8
    assert run.notes[-1].endswith("the limiter holds them back 50 % of the time")


def test_a_plain_number_stays_whoever_waits(scene):
    run = scene(4)
    assert [run.minute(learner_waits=0.9), run.minute(held_back=0.9)] == [4, 4]
    assert [note[:11] for note in run.notes] == ["the actors,", "the learner"]
    assert run.notes[0].endswith("; more actors: apexpert scale r --actors auto:4-12")


def test_no_more_actors_are_advised_than_there_are_cores(scene):
    run = scene(4, cores=4)
    run.minute(learner_waits=0.9)
    assert run.notes[0].endswith("; more of them need more cores")


def test_auto_grows_with_the_cores_and_not_beyond(scene):
    run = scene("auto", cores=4)
    assert run.minute(learner_waits=0.5) == 4
    assert run.notes[-1].endswith("auto allows no more of them now")
    run.room.cores = 9
    assert [run.minute(learner_waits=0.5) for _ in range(4)] == [5, 7, 9, 9]
    run.room.cores = 6
    assert run.minute() == 6


def test_while_one_is_pending_no_more_are_asked_for(scene):
    run = scene("auto:1-100")
    assert run.minute(learner_waits=0.5, alive=11) == 12
    assert run.minute(learner_waits=0.5, alive=12) == 15


def test_the_warm_up_decides_nothing(scene):
    run = scene("auto:1-100")
    assert run.minute(learner_waits=1.0, updates=0.0) == 12
    assert len(run.notes) == 1


def test_scale_asks_for_a_range_or_a_number_while_it_runs(scene):
    run = scene(4)
    run.state.ask("auto:8-200")
    assert run.minute() == 8
    assert run.notes == ["actors 4 -> 8 (auto:8-200): what is asked for has changed"]
    run.state.ask(3)
    assert run.minute(learner_waits=0.5) == 3


def test_target_and_range_are_kept_by_the_folder(scene):
    run = scene("auto:8-200")
    assert run.minute(learner_waits=0.5) == 15
    again = scene(cores=2)
    assert (again.state.asked, again.state.target) == ("auto:8-200", 15)
    assert again.notes == []
    assert again.minute(learner_waits=0.5) == 19


def test_a_folder_of_before_has_its_number(tmp_path):
    RunFolder(tmp_path).write_json("fleet.json", {"target_actors": 8, "next_incarnation": {"0": 1}})
    state = FleetState(RunFolder(tmp_path))
    assert (state.asked, state.target) == (8, 8)


class Fleet:
    """Actors on nodes, and a learner; notes who was told what."""

    def __init__(self, **nodes):
        self.nodes, self.saves = nodes, 0

    def leave_nodes(self, draining):
        return sum(self.nodes.pop(node, 0) for node in draining)

    def save(self):
        self.saves += 1


def watched(nodes, fleet):
    """The notes of a watch that sees `nodes` drain, at three looks."""
    notes, looks = [], []

    def look():
        looks.append(1)
        return nodes

    draining = Draining("learners", notes.append, look=look)
    # The fourth begins once the third has been answered.
    for number in itertools.takewhile(lambda _: len(looks) < 4, itertools.count()):
        draining.step(number * LOOK_SECONDS, fleet, fleet)
        time.sleep(0.001)  # It is asked in a thread.
    return notes


def test_actors_leave_a_node_that_drains():
    fleet = Fleet(first=2, second=1)
    assert watched({"second": 0}, fleet) == [
        "node second is to end: its 1 actors leave first, and others take their places"
    ]
    assert fleet.nodes == {"first": 2}
    assert not fleet.saves


def test_the_learner_saves_once_when_its_own_node_drains():
    fleet = Fleet(learners=2)
    notes = watched({"learners": 123}, fleet)
    assert fleet.saves == 1
    assert notes[0] == "the learner's node learners is to end: a checkpoint is written at once"
    assert fleet.nodes == {}


def test_a_ray_that_does_not_answer_holds_up_nobody():
    gate, calls = threading.Event(), []

    def look():
        calls.append(1)
        gate.wait(60)
        return 7

    background = Background(look)
    assert [background.answer() for _ in range(3)] == [None, None, None]
    assert len(calls) == 1
    gate.set()
    answers = []
    while not answers:
        answers = [answer for answer in [background.answer()] if answer]
    assert answers == [7]


def test_an_error_of_ray_is_asked_again():
    answers = iter([1])

    def look():
        if not tries:
            tries.append(1)
            raise RuntimeError("away")
        return next(answers)

    tries, found = [], None
    background = Background(look)
    while found is None:
        found = background.answer()
    assert found == 1


@pytest.mark.parametrize(
    ("asked", "least", "most", "elastic"),
    [(4, 4, 4, False), ("auto", 1, None, True), ("auto:8-200", 8, 200, True), ("auto:3-3", 3, 3, True)],
)
def test_what_may_be_asked_for(asked, least, most, elastic):
    assert ActorRange.parse(asked) == ActorRange(least, most, elastic)


@pytest.mark.parametrize(
    "asked", [0, -1, 10_001, "4", "", "auto:", "auto:8", "auto:8-", "auto:9-8", "auto:0-2"]
)
def test_what_may_not(asked):
    with pytest.raises(ValueError, match=r"neither|not within"):
        ActorRange.parse(asked)


@pytest.mark.parametrize("asked", [4, "auto", "auto:8-200"])
def test_what_is_asked_for_is_saved_and_loaded_as_it_is(asked):
    config = with_values(Config(), actors__num_actors=asked)
    saved = json.loads(json.dumps(to_json(config)))
    assert saved["actors"]["num_actors"] == asked
    assert from_json(saved) == config
    assert from_json(tomllib.loads(to_toml(config))) == config
    with pytest.raises(ConfigError, match=r"--actors\.num-actors.*a whole number or text"):
        from_json({"actors": {"num_actors": 1.5}})
